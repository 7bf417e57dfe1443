"""Where the prompt ends for a layer of an encoder-decoder model, whose two stacks read different tokens.

An encoder reads the prompt, and nothing else: its last real token is the prompt's last. A decoder reads the
answer. Its start token stands before the answer, and so in the place of a prompt.
Each stack has its own position tracker, because ``generate`` and teacher forcing call each stack separately.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.watching import Watch


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

    def watch_generate(self, model: Any) -> None:
        """Tell passes of ``generate`` from others: it is a method of the full model, not of the decoder."""
        if self._generate is None and hasattr(model, "generate"):
            self._generate = Watch(model, self._generating, "generate")

    def _generating(self, *_: Any) -> contextlib.AbstractContextManager[None]:
        # One start token a row; how many rows there are shows in the first pass.
        return self.generating(torch.ones(1, 1, dtype=torch.bool))

    def _ends(self, real: Tensor, past: int, labels: Any) -> Tensor:
        if self._generation is None and past:
            return torch.full((len(real),), -1, device=real.device)
        return real.long().argmax(dim=1)
