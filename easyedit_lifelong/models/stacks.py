"""Where the prompt ends for a layer of an encoder-decoder model, whose two stacks read different things.

An encoder reads the prompt, and nothing else: its last real token is the prompt's last. A decoder reads the
answer; what stands before the answer's first token, and so in the place of a prompt, is its start token.
Each stack has a position tracker of its own, since ``generate`` and teacher forcing call both by themselves.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.positions import PositionTracker

_ATTRIBUTE = "_easyedit_lifelong_decoder"


def stack_of(model: Any, layer: nn.Module) -> nn.Module:
    """Return the part of a model whose passes say where a layer's tokens are.

    Returns:
        The encoder or the decoder that holds the layer; of any other kind of model, the model itself.

    Raises:
        ModelError: the layer is in neither.
    """
    if kind_of(model) is not Kind.SEQ2SEQ:
        return model
    for stack in (model.get_encoder(), model.get_decoder()):
        if any(module is layer for module in stack.modules()):
            return stack
    raise ModelError(f"this {type(layer).__name__} is in neither encoder nor decoder; name one of their layers")


def attach_tracker(model: Any, layer: nn.Module) -> PositionTracker | None:
    """Return the tracker that knows the positions of a layer's tokens; None for a plain module, which has none.

    Raises:
        ModelError: the layer is in neither stack of an encoder-decoder model.
    """
    if kind_of(model) is Kind.MODULE:
        return None
    stack = stack_of(model, layer)
    if stack is model or stack is model.get_encoder():
        return PositionTracker.attach(stack)
    tracker = DecoderTracker.attach(stack)
    assert isinstance(tracker, DecoderTracker)
    tracker.watch_generate(model)
    return tracker


class DecoderTracker(PositionTracker):
    """Takes a decoder's start token for its prompt. Get it with :func:`attach_tracker`."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        self._whole: Any = None
        self._whole_generate: Any = None

    def watch_generate(self, whole: Any) -> None:
        """Tell passes of ``generate`` from others: it is a method of the whole model, not of the decoder."""
        if self._whole is not None or not hasattr(whole, "generate"):
            return
        self._whole, self._whole_generate = whole, whole.__dict__.get("generate")
        whole.__dict__[_ATTRIBUTE] = self
        whole.__dict__["generate"] = types.MethodType(_generate, whole)

    def detach(self) -> None:
        """Release one use; with the last one, the model is as it was before the first."""
        super().detach()
        if self._users == 0 and self._whole is not None:
            del self._whole.__dict__["generate"], self._whole.__dict__[_ATTRIBUTE]
            if self._whole_generate is not None:
                self._whole.__dict__["generate"] = self._whole_generate
            self._whole = self._whole_generate = None

    def _ends(self, real: Tensor, past: int, labels: Any) -> Tensor:
        if self._generation is None and past:
            return torch.full((len(real),), -1, device=real.device)
        return real.long().argmax(dim=1)


def _generate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """``generate`` of the whole model's class, with the decoder told that its passes belong together."""
    tracker: DecoderTracker = self.__dict__[_ATTRIBUTE]
    own = tracker._whole_generate
    original = own if own is not None else functools.partial(type(self).generate, self)
    # One start token a row; how many rows there are shows in the first pass.
    with tracker.generating(torch.ones(1, 1, dtype=torch.bool)):
        return original(*args, **kwargs)
