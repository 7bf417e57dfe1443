"""Find the tracker of the tokens that a layer processes, in models of one stack and in encoder-decoder models.

The encoder and the decoder of an encoder-decoder model read different tokens, and ``generate`` and teacher forcing call
each of them separately. So each has its own tracker. An encoder reads nothing but the prompt: its last real token is
the last prompt token. A decoder reads the answer. Its start token precedes the answer and takes the role of the prompt.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.overrides import CallWrapper
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.windows import Generation


class DecoderTracker(PositionTracker):
    """Tracks the decoder of an encoder-decoder model, whose start token counts as its prompt.

    Use :func:`attach_tracker` to get it.
    """

    def wrap_generate(self, model: Any) -> None:
        """Wrap ``generate``, which is a method of the full model, not of the decoder."""
        if not self._method_wrappers and hasattr(model, "generate"):
            self._method_wrappers.append(CallWrapper(model, self._generate_context, "generate"))

    def _generate_context(self, *_: Any) -> contextlib.AbstractContextManager[None]:
        """Return the context in which a call of ``generate`` runs."""
        # Each row has one start token. The number of rows is not known yet, but one row can stand for all.
        return self.generating(Generation(torch.ones(1, 1, dtype=torch.bool)))

    def _prompt_ends(self, real: Tensor, past: int, labelled_ends: Tensor) -> Tensor:
        """Return the absolute column of each row's start token, ``(batch,)``; -1 where a pass continues a cache."""
        if self._generation is None and past:
            return torch.full((len(real),), -1, device=real.device)
        return real.long().argmax(dim=1)  # the first real token


def find_stack(model: Any, layer: nn.Module) -> nn.Module:
    """Return the part of a model whose forward pass receives the tokens that a layer processes.

    Returns:
        The encoder or decoder that contains the layer; for a model without these parts, the model itself.

    Raises:
        ModelError: the layer is neither in the encoder nor in the decoder.
    """
    if kind_of(model) is not ModelKind.SEQ2SEQ:
        return model
    for stack in (model.get_encoder(), model.get_decoder()):
        if any(module is layer for module in stack.modules()):
            return stack
    raise ModelError(f"this {type(layer).__name__} is in neither encoder nor decoder. Name a layer of one of them.")


def attach_tracker(model: Any, layer: nn.Module) -> PositionTracker | None:
    """Return the tracker of the tokens that a layer processes; None for a plain module, which reads no tokens.

    Raises:
        ModelError: the model is an encoder-decoder, and the layer is in neither of its parts.
    """
    if kind_of(model) is ModelKind.MODULE:
        return None
    stack = find_stack(model, layer)
    if stack is model or stack is model.get_encoder():
        return PositionTracker.attach(stack, model)
    tracker = DecoderTracker.attach(stack, model)
    assert isinstance(tracker, DecoderTracker)
    tracker.wrap_generate(model)
    return tracker
