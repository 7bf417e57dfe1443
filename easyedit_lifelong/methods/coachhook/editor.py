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
from easyedit_lifelong.methods.coachhook.hook import Hook, Mode
from easyedit_lifelong.methods.coachhook.hook_layers import HookLayers, WeightsWithoutHooks
from easyedit_lifelong.methods.coachhook.layer import HookLayer, score_tolerance
from easyedit_lifelong.methods.coachhook.state import BatchUpdate, CoachHookState, check_keys
from easyedit_lifelong.methods.coachhook.subject_hooks import ALPHA, SubjectHook, SubjectHookLayers
from easyedit_lifelong.methods.coachhook.subject_keys import KeyMaker
from easyedit_lifelong.methods.coachhook.subject_scope import SubjectKeys, SubjectScope, check_comes_first
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.null_space import null_space_solver
from easyedit_lifelong.methods.locate_edit.spread import spread_residual
from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.locate_edit.update import Solver
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitening_of
from easyedit_lifelong.methods.weight_updates.edited_layers import EditedLayers
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


class CoachHookEditor(WeightEditor[BatchUpdate]):
    """Edits a model in consecutive batches, with hook layers or, with ``wohk``, in its weights. Get it with :meth:`on`.

    Attributes:
        hooks: the hook layers by path, from the first to the last. With ``wohk``, they act only while a batch is
            edited.
        scope: with ``scope_score: codebook``, decides at which tokens the hook layers act; else None.
    """

    hparams_class, batch_class = CoachHookHyperParams, BatchUpdate
    hparams: CoachHookHyperParams
    state: CoachHookState

    def make_history(self, paths: list[str], templates: Templates, fingerprint: str) -> CoachHookState:
        """Return an empty history."""
        alpha = ALPHA if self.hparams.has_codebook else self.hparams.alpha_z
        return CoachHookState(paths, templates, fingerprint=fingerprint, alpha_z=alpha)

    def make_layers(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Attach hook layers to the edited projections, and return the layers that updates are added to."""
        self.hooks: dict[str, Hook] = {}
        self.scope: SubjectScope | None = None
        try:
            if self.hparams.has_codebook:
                return self._make_subject_hooks(modules)
            return self._make_hooks(modules)
        except BaseException:
            self._detach_hooks()
            raise

    def _make_hooks(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Attach hook layers that compare scores with α."""
        tolerance, leave_one_out = score_tolerance(self.model.dtype), self.hparams.z_tokens == "others"
        hooks: dict[str, HookLayer] = {}
        for path, module in modules.items():
            hook = HookLayer(self.model, module, tolerance, leave_one_out=leave_one_out)
            hooks[path] = self.hooks[path] = hook
        return WeightsWithoutHooks(hooks) if self.hparams.wohk else HookLayers(hooks, self.state)

    def _make_subject_hooks(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Attach the scope, and hook layers that act where it finds a subject."""
        path, layer = find_module(self.model, self.hparams.scope_path)
        check_comes_first(self.model, path, layer, next(iter(modules.values())))
        self._key_maker: KeyMaker | None = None
        self.scope = scope = SubjectScope(self.model, layer)
        hooks: dict[str, SubjectHook] = {}
        for path, module in modules.items():
            hooks[path] = self.hooks[path] = SubjectHook(self.model, module, projection_shape(module)[0], scope)
        return SubjectHookLayers(hooks, scope, self.state)

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
        if isinstance(layers, SubjectHookLayers):
            return self._update_with_codebook(facts, passes, z, records, prompts)
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

    def _update_with_codebook(
        self,
        facts: Sequence[Fact],
        passes: EditingPasses,
        z: Tensor,
        records: tuple[EditRecord, ...],
        prompts: Sequence[Sequence[int]],
    ) -> tuple[BatchUpdate, Sequence[Mapping[str, Any]]]:
        """Compute and apply the updates of a batch, with the subjects of the batch in scope."""
        assert self.scope is not None
        earlier = [batch.subject_keys for batch in self.state.batches]
        keys = self._make_keys(facts, earlier[0].whitening if earlier else None)
        self.scope.set_keys(SubjectKeys.joined([*earlier, keys]))
        updates = spread_residual(self._layers, self._solvers, passes, z)
        whitening = keys.whitening[:, :0] if earlier else keys.whitening
        batch = BatchUpdate(records, updates, self.alphas, {}, prompts, keys.vectors, keys.radii, whitening)
        return batch, [{"radius": radius} for radius in keys.radii[0].tolist()]

    def _make_keys(self, facts: Sequence[Fact], whitening: Tensor | None) -> SubjectKeys:
        """Return the keys of the subjects of a batch.

        Args:
            facts: the batch.
            whitening: the whitening of earlier batches; None: there are none.
        """
        assert self.scope is not None
        if self._key_maker is None:
            if whitening is None:
                assert self._moments is not None
                whitening = whitening_of(self._moments[self.hparams.scope_path].moment)
            path = self.hparams.scope_path
            self._key_maker = KeyMaker(self._runner, path, self.scope.layer, self.hparams, whitening)
        return self._key_maker.keys(facts)

    def _lowered_alphas(
        self, passes: EditingPasses, facts: Sequence[Fact], prompts: Sequence[Sequence[int]]
    ) -> tuple[list[float], dict[str, float]]:
        """Return the highest score of each prompt in the last hook layer, and α of every hook layer after the batch."""
        before, hparams = self.alphas, self.hparams
        hooks = {path: hook for path, hook in self.hooks.items() if isinstance(hook, HookLayer)}
        highest, alphas = lowered_alphas(hooks, before, passes, facts, edited=hparams.alpha_model == "edited")
        if hparams.alpha_prompts == "all":
            earlier = [prompt for batch in self.state.batches for prompt in batch.prompts]
            checked = [*round_robin(earlier, hparams.alpha_checked, len(self.state.batches)), *prompts]
            alphas, dropped = keep_in_scope(
                self._runner, hooks, before, alphas, checked, self._blocks[-1], hparams.alpha_floor
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
        if self.scope is not None:
            check_keys(batch, projection_shape(self.scope.layer)[0], 1 + len(self.hparams.key_templates))
        elif batch.key_vectors is not None:
            raise EditError("the batches have the keys of subjects, which scope_score does not expect")

    def _detach(self) -> None:
        """Remove the editor and its hook layers from the model."""
        super()._detach()
        self._detach_hooks()

    def _detach_hooks(self) -> None:
        """Remove the hook layers and the scope from the model."""
        for hook in self.hooks.values():
            hook.detach()
        if self.scope is not None:
            self.scope.detach()

    def _make_runner(self, tokenizer: Any) -> Runner:
        """Return a runner of the model for the passes of this editor, which share the decisions of the scope."""
        return Runner(self.model, tokenizer, own_spans=int(self.hparams.has_codebook))


def coachhook_editor(model: Any) -> CoachHookEditor:
    """Return the CoachHook editor of a model.

    Raises:
        EditError: the model has no CoachHook edits.
    """
    return CoachHookEditor.require(model)
