"""The editor of CoachHook: edits a model in consecutive batches, in hook layers (arXiv 2403.05330)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.alphas import keep_in_scope, lowered_alphas, round_robin
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.hook_layers import HookLayers, WeightsWithoutHooks
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode, score_tolerance
from easyedit_lifelong.methods.coachhook.state import BatchUpdate, CoachHookState
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.null_space import null_space_solver
from easyedit_lifelong.methods.locate_edit.spread import spread_residual
from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.locate_edit.update import Solver
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.weight_updates.edited_layers import EditedLayers

LOG = logging.getLogger(__name__)


class CoachHookEditor(WeightEditor[BatchUpdate]):
    """Edits a model in consecutive batches, with hook layers or, with ``wohk``, in its weights. Get it with :meth:`on`.

    Attributes:
        hooks: the hook layers by path, from the first to the last. With ``wohk``, they act only while a batch is
            edited.
    """

    hparams_class, batch_class = CoachHookHyperParams, BatchUpdate
    hparams: CoachHookHyperParams
    state: CoachHookState

    def make_history(self, paths: list[str], templates: Templates, fingerprint: str) -> CoachHookState:
        """Return an empty history."""
        return CoachHookState(paths, templates, fingerprint=fingerprint, alpha_z=self.hparams.alpha_z)

    def make_layers(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Attach hook layers to the edited projections, and return the layers that updates are added to."""
        tolerance, leave_one_out = score_tolerance(self.model.dtype), self.hparams.z_tokens == "others"
        self.hooks: dict[str, HookLayer] = {}
        try:
            for path, module in modules.items():
                self.hooks[path] = HookLayer(self.model, module, tolerance, leave_one_out=leave_one_out)
        except BaseException:
            for hook in self.hooks.values():
                hook.detach()
            raise
        if self.hparams.wohk:
            return WeightsWithoutHooks(self.hooks)
        return HookLayers(self.hooks, self.state)

    def make_solver(self, second_moment: SecondMoment, device: torch.device, dtype: torch.dtype) -> Solver:
        """Return the solver of one layer, without keys."""
        if self.hparams.update == "alphaedit":
            return null_space_solver(self.hparams, second_moment.moment, device, dtype)
        return super().make_solver(second_moment, device, dtype)

    @property
    def alphas(self) -> dict[str, float]:
        """The present α of each hook layer, by path of the projection."""
        return self.state.alphas

    def update_layers(
        self, facts: Sequence[Fact], passes: EditingPasses, z: Tensor
    ) -> tuple[BatchUpdate, Sequence[Mapping[str, Any]]]:
        """Compute and apply the updates of a batch, and lower α (sections 3.2 and 3.3)."""
        records = tuple(EditRecord.of(fact.request) for fact in facts)
        prompts = tuple(tuple(fact.plain.prompt) for fact in facts)
        layers = self._layers
        if not isinstance(layers, HookLayers):  # wohk
            updates = spread_residual(layers, self._solvers, passes, z)
            return BatchUpdate(records, updates, self.alphas, {}, prompts), [{"highest_z_score": None}] * len(facts)
        if self.hparams.weighs_scores:
            layers.moments = self._moments or {}
        # When a layer gets its update, its mode is set to VALIDATED. The layers above are still in TEMPORARY mode.
        with layers.in_mode(Mode.TEMPORARY):
            updates = spread_residual(layers, self._solvers, passes, z)
        highest, alphas = self._lowered_alphas(passes, facts, prompts)
        batch = BatchUpdate(records, updates, alphas, layers.rms_changes(), prompts)
        return batch, [{"highest_z_score": score} for score in highest]

    def _lowered_alphas(
        self, passes: EditingPasses, facts: Sequence[Fact], prompts: Sequence[Sequence[int]]
    ) -> tuple[list[float], dict[str, float]]:
        """Return the highest score of each prompt in the last hook layer, and α of every hook layer after the batch."""
        before, hparams = self.alphas, self.hparams
        highest, alphas = lowered_alphas(self.hooks, before, passes, facts, edited=hparams.alpha_model == "edited")
        if hparams.alpha_prompts == "all":
            earlier = [prompt for batch in self.state.batches for prompt in batch.prompts]
            checked = [*round_robin(earlier, hparams.alpha_checked, len(self.state.batches)), *prompts]
            alphas, dropped = keep_in_scope(
                self._runner, self.hooks, before, alphas, checked, self._blocks[-1], hparams.alpha_floor
            )
            if dropped:
                LOG.info(
                    "%d of %d prompts need an α below alpha_floor; they may be out of scope", len(dropped), len(checked)
                )
        return highest, alphas

    def _check_loadable(self, batch: BatchUpdate) -> None:
        """Check that a saved batch has updates and scores for the hook layers of this editor."""
        super()._check_loadable(batch)
        if list(batch.alphas) != self.state.paths:
            raise EditError(f"alphas are for the layers {list(batch.alphas)} instead of {self.state.paths}")
        if set(batch.ordinary) != (set(batch.layers) if self.hparams.weighs_scores else set()):
            raise EditError(f"'ordinary' has the layers {list(batch.ordinary)}, which scope_score does not expect")

    def _detach(self) -> None:
        """Remove the editor and its hook layers from the model."""
        super()._detach()
        for hook in self.hooks.values():
            hook.detach()


def coachhook_editor(model: Any) -> CoachHookEditor:
    """Return the CoachHook editor of a model.

    Raises:
        EditError: the model has no CoachHook edits.
    """
    return CoachHookEditor.require(model)
