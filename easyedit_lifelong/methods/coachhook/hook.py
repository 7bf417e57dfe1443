"""What all hook layers have in common: they sit on one projection, can be turned off, and report their decisions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.overrides import overridden

CHILD_NAME = "coachhook"
"""Name of the child module that holds the tensors of a hook layer."""


class Mode(Enum):
    """The output of a hook layer (section 3.2)."""

    OFF = "off"
    """P at every token."""
    TEMPORARY = "temporary"
    """O at every token, while the layers of a batch are updated."""
    VALIDATED = "validated"
    """O at tokens in scope, and P at the others."""


class Hook:
    """A forward hook on a projection, whose output it replaces at tokens in scope.

    A subclass implements :meth:`_after_module` and :meth:`threshold`.

    Args:
        model: the model.
        module: the projection, ``(batch, tokens, inputs)`` to ``(batch, tokens, outputs)``.

    Attributes:
        mode: the output of the layer.
    """

    def __init__(self, model: nn.Module, module: nn.Module) -> None:
        self.module = module
        self.mode = Mode.OFF
        self._score_recorder: Callable[[Tensor], None] | None = None
        self._decision_recorder: Callable[[Tensor, Tensor], None] | None = None
        self._attachment = Attachment(model, module, CHILD_NAME, self._after_module, whole_prompts=True)

    def in_mode(self, mode: Mode) -> AbstractContextManager[None]:
        """Set the mode within the context."""
        return overridden("mode", {self: mode})

    def recording_scores(self, record: Callable[[Tensor], None]) -> AbstractContextManager[None]:
        """Call ``record`` in each pass within the context, with the scores, shape ``(rows, tokens)``.

        The scores are compared with α after the call. So ``record`` can still change α for this pass.
        """
        return overridden("_score_recorder", {self: record})

    def recording_decisions(self, record: Callable[[Tensor, Tensor], None]) -> AbstractContextManager[None]:
        """Call ``record`` in each pass within the context, with the scores and with which tokens are in scope.

        Both have the shape ``(rows, tokens)``.
        """
        return overridden("_decision_recorder", {self: record})

    def detach(self) -> None:
        """Remove the hook layer from the model. A second call does nothing."""
        self.mode = Mode.OFF
        self._attachment.detach()

    def threshold(self, dtype: torch.dtype) -> Tensor:
        """Return the lowest score that is in scope in a model of this dtype."""
        raise NotImplementedError

    def _after_module(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        """Return the output of the hook layer for a pass; None to keep the output of the projection."""
        raise NotImplementedError
