"""The CoachHook editor of a model: consecutive batches into hook layers (arXiv 2403.05330)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.alphas import keep_in_scope, lowered_alphas, round_robin
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.hook_layers import HookLayers, WeightsWithoutHooks
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode, slack_of
from easyedit_lifelong.methods.coachhook.state import BatchUpdate, CoachHookState
from easyedit_lifelong.methods.locate_edit.edited_layers import EditedLayers
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.spread import spread_residual
from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.shared.records import EditRecord

LOG = logging.getLogger(__name__)


class CoachHookEditor(WeightEditor[BatchUpdate]):
    """Edits a model in consecutive batches, with hook layers or, with ``wohk``, in its weights. Get it with :meth:`on`.

    Attributes:
        hooks: the hook layers by path, from the first to the last; with ``wohk`` they act only while a batch is edited.
    """

    hparams_class, batch_class = CoachHookHyperParams, BatchUpdate
    hparams: CoachHookHyperParams
    state: CoachHookState

    def make_history(self, paths: list[str], templates: Templates, fingerprint: str) -> CoachHookState:
        """Return a history without batches."""
        return CoachHookState(paths, templates, fingerprint=fingerprint, alpha_z=self.hparams.alpha_z)

    def make_layers(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Put hook layers on these projections; with ``wohk`` they act only while a batch is edited."""
        slack, others = slack_of(self.model.dtype), self.hparams.z_tokens == "others"
        self.hooks: dict[str, HookLayer] = {}
        try:
            for path, module in modules.items():
                self.hooks[path] = HookLayer(self.model, module, slack, others=others)
        except BaseException:
            for hook in self.hooks.values():
                hook.detach()
            raise
        if self.hparams.wohk:
            return WeightsWithoutHooks(self.hooks)
        return HookLayers(self.hooks, self.state)

    @property
    def alphas(self) -> dict[str, float]:
        """Each layer's α, by path of the projection."""
        return self.state.alphas

    def update_layers(
        self, facts: Sequence[Fact], passes: EditingPasses, z: Tensor
    ) -> tuple[BatchUpdate, Sequence[Mapping[str, Any]]]:
        """Update the layers for a batch, and lower α for it (sections 3.2 and 3.3)."""
        records, prompts = tuple(EditRecord.of(fact.request) for fact in facts), _prompts_of(facts)
        layers = self._layers
        if not isinstance(layers, HookLayers):
            updates = spread_residual(layers, self._solvers, passes, z)
            return BatchUpdate(records, updates, self.alphas, {}, prompts), [{"highest_z_score": None}] * len(facts)
        if self.hparams.weighed:
            layers.moments = self._moments or {}
        # A layer's hook is validated once it has its update; those of the layers above are temporary until then.
        with layers.in_mode(Mode.TEMPORARY):
            updates = spread_residual(layers, self._solvers, passes, z)
        highest, alphas = self._lowered_alphas(passes, facts, prompts)
        batch = BatchUpdate(records, updates, alphas, layers.ordinary(), prompts)
        return batch, [{"highest_z_score": score} for score in highest]

    def _lowered_alphas(
        self, passes: EditingPasses, facts: Sequence[Fact], prompts: Sequence[Sequence[int]]
    ) -> tuple[list[float], dict[str, float]]:
        """Return each prompt's highest z-score in the last layer, and every layer's α after the batch."""
        before, hparams = self.alphas, self.hparams
        highest, alphas = lowered_alphas(self.hooks, before, passes, facts, edited=hparams.alpha_model == "edited")
        if hparams.alpha_prompts == "all":
            earlier = [prompt for batch in self.state.batches for prompt in batch.prompts]
            everything = [*round_robin(earlier, hparams.alpha_checked, len(self.state.batches)), *prompts]
            alphas, dropped = keep_in_scope(
                self._runner, self.hooks, before, alphas, everything, self._blocks[-1], hparams.alpha_floor
            )
            if dropped:
                LOG.info(
                    "%d of %d prompts are below alpha_floor and may be out of scope", len(dropped), len(everything)
                )
        return highest, alphas

    def _check_restorable(self, batch: BatchUpdate) -> None:
        super()._check_restorable(batch)
        if list(batch.alphas) != self.state.paths:
            raise EditError("the batches belong to other layers")
        if set(batch.ordinary) != (set(batch.layers) if self.hparams.weighed else set()):
            raise EditError("what scores are weighed by is of other layers")

    def _detach(self) -> None:
        super()._detach()
        for hook in self.hooks.values():
            hook.detach()


def _prompts_of(facts: Sequence[Fact]) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of the bare prompts."""
    return tuple(tuple(fact.plain.prompt) for fact in facts)


def coachhook_editor(model: Any) -> CoachHookEditor:
    """Return the editor of a model that carries CoachHook edits.

    Raises:
        EditError: it carries none.
    """
    return CoachHookEditor.required(model)
