"""The editor of NeuralDB: a hook on one MLP projection, which adds the residual of the nearest key behind a gate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.neuraldb.config import NeuralDBHyperParams
from easyedit_lifelong.methods.neuraldb.fact_table import FactTable, Lookup
from easyedit_lifelong.methods.shared.separate_edits import SeparateEditor
from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.overrides import overridden


@dataclass(frozen=True)
class Prepared:
    """What edits need of a model once.

    Attributes:
        settings: the hyperparameters that it depends on.
        templates: the context templates.
        gamma: γ.
    """

    settings: tuple[Any, ...]
    templates: Templates
    gamma: float


class NeuralDBEditor(SeparateEditor):
    """Adds residuals to the output of one MLP projection W (arXiv 2507.18028).

    At every token of every pass, with the input k of the projection and the keys k_j and residuals r_j of the edits:

        o = W k + r_j   if cos(k, k_j) > γ, with j = argmax_i cos(k, k_i)
        o = W k         otherwise

    A decision depends on the input at one token only. So padding, other rows and the KV cache cannot change it. The
    weights do not change.

    Args:
        model: the model.
        hparams: the hyperparameters.

    Attributes:
        path: the path of the projection.
        prepared: what later edits can reuse; None if the edits were loaded.
    """

    hparams_class = NeuralDBHyperParams
    same_settings = NeuralDBHyperParams.SAME_SETTINGS

    def __init__(self, model: Any, hparams: Any) -> None:
        self.prepared: Prepared | None = None
        self._table: FactTable | None = None
        self._suspended = False
        self._record: Callable[[Lookup], None] | None = None
        self.path, self.projection = find_module(model, hparams.rewrite_modules[0])
        super().__init__(model, hparams)

    def attach(self, model: Any) -> Callable[[], None]:
        """Attach the gate to the projection; return a function that detaches it."""
        return Attachment(model, self.projection, "neuraldb", self._after_projection).detach

    def edits_changed(self) -> None:
        """Drop the table. The next pass makes a new one."""
        self._table = None

    @property
    def table(self) -> FactTable:
        """The table of the edits, of which there must be at least one."""
        if self._table is None:
            # Tensors made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                self._table = FactTable(self.edits)
        return self._table

    def without_edits(self) -> AbstractContextManager[None]:
        """Leave out the edits of this editor within the context."""
        return overridden("_suspended", {self: True})

    def recording_lookups(self, record: Callable[[Lookup], None]) -> AbstractContextManager[None]:
        """Call ``record`` with the lookups of each pass within the context."""
        return overridden("_record", {self: record})

    def _after_projection(self, args: tuple[Any, ...], _: dict[str, Any], output: Tensor) -> Tensor | None:
        """Return the output with residuals added; None to keep it."""
        if self._suspended or not self.edits:
            return None
        table = self.table
        lookup = table.lookup(args[0])
        if self._record is not None:
            self._record(lookup)
        # No branch on whether an edit answers: on a GPU, it would wait for the result of the lookup.
        edited = (output + table.residuals[lookup.row]).to(output.dtype)
        return torch.where(lookup.answers.unsqueeze(-1), edited, output)
