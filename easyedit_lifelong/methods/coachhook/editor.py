"""The CoachHook editor of a model: consecutive batches into hook layers (arXiv 2403.05330)."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.covariance import SecondMoment, regularisation
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.alphas import in_turn, keep_in_scope, lowered_alphas
from easyedit_lifelong.methods.coachhook.batch import update_layers, weight_of
from easyedit_lifelong.methods.coachhook.check import check_model
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.facts import Fact, check_batch, prepare
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode, slack_of
from easyedit_lifelong.methods.coachhook.layers import EditedLayers
from easyedit_lifelong.methods.coachhook.moments import second_moments
from easyedit_lifelong.methods.coachhook.passes import EditingPasses
from easyedit_lifelong.methods.coachhook.state import BatchUpdate, CoachHookState
from easyedit_lifelong.methods.coachhook.templates import Templates, context_templates
from easyedit_lifelong.methods.coachhook.update import AccumulatedKeys, solving_device
from easyedit_lifelong.methods.coachhook.values import TargetVectors, optimise_targets
from easyedit_lifelong.methods.shared.apply import check_continues
from easyedit_lifelong.methods.shared.editors import editors_on, internal_pass, register_editor, unregister_editor
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modes import editing
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.wrappers import model_to_edit

LOG = logging.getLogger(__name__)

_PLACE = ""
"""All edited layers have one editor."""

SAME_SETTINGS = (
    "layers", "num_layers", "rewrite_module_tmp", "layer_module_tmp", "fact_token", "alpha_z", "alpha_model",
    "alpha_prompts", "alpha_floor", "scope_score", "z_tokens", "wohk", "seed", "context_template_length_params",
    "mom2_update_weight", "mom2_dataset", "mom2_n_samples", "mom2_n_tokens", "mom2_dtype",
)  # fmt: skip
"""Settings that batches upon batches must share."""


class CoachHookEditor:
    """Edits a model batch upon batch. Get it with :meth:`on`.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: CoachHook's hyperparameters.
        moments: E[kkᵀ] by path of the projection; by default those that the hyperparameters name.
        templates: context templates; by default the model generates them.

    Attributes:
        state: every batch so far.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        hparams: CoachHookHyperParams,
        moments: Mapping[str, SecondMoment] | None = None,
        templates: Templates | None = None,
    ) -> None:
        check_model(model, tokenizer, hparams)
        model = model_to_edit(model)
        self.model, self.tokenizer, self.hparams = model, tokenizer, hparams
        self._runner = Runner(model, tokenizer)
        modules = dict(find_module(model, name) for name in hparams.rewrite_modules)
        self._blocks = [find_module(model, hparams.layer_module_tmp.format(n))[1] for n in hparams.edited_layers]
        if templates is None:
            with internal_pass(model):
                templates = context_templates(model, tokenizer, hparams.context_template_length_params, hparams.seed)
        self.state = CoachHookState(list(modules), hparams.alpha_z, templates, fingerprint=model_fingerprint(model))
        self._moments = dict(moments) if moments is not None else None
        self._accumulated: dict[str, AccumulatedKeys] = {}
        self._unedited: Mapping[str, Tensor | None] = {}
        """What the layers held before the first batch: nothing, or with ``wohk`` their weights."""
        self.attached = True
        slack, others = slack_of(model.dtype), hparams.z_tokens == "others"
        # Last, so that a model that can't be edited stays as it is.
        self.hooks = {path: HookLayer(model, module, slack, others=others) for path, module in modules.items()}
        self._layers = EditedLayers(self.hooks, wohk=hparams.wohk)

    @classmethod
    def of(cls, model: Any) -> CoachHookEditor | None:
        """Return the editor that is on a model, if there is one."""
        return editors_on(model, CoachHookHyperParams.ALG_NAME).get(_PLACE)

    @classmethod
    def on(
        cls,
        model: Any,
        tokenizer: Any,
        hparams: CoachHookHyperParams,
        moments: Mapping[str, SecondMoment] | None = None,
        templates: Templates | None = None,
    ) -> CoachHookEditor:
        """Return the model's editor, putting one on the model if it has none.

        Raises:
            ModelError: the model has no such layers.
            EditError: the model carries CoachHook edits made with other settings.
        """
        editor = cls.of(model)
        if editor is None:
            editor = cls(model, tokenizer, hparams, moments, templates)
            register_editor(model, hparams.ALG_NAME, _PLACE, editor)
            return editor
        check_continues(
            "the model carries CoachHook edits", editor.hparams, hparams, SAME_SETTINGS, "Roll them back first."
        )
        if tokenizer is not editor.tokenizer:  # edits that were loaded came without one
            editor.tokenizer, editor._runner = tokenizer, Runner(model, tokenizer)
        editor.hparams = hparams
        return editor

    @property
    def alphas(self) -> dict[str, float]:
        """Each layer's α, by path of the projection."""
        return self.state.alphas

    @property
    def base_fingerprint(self) -> str | None:
        """Of the unedited weights, where edits are in the weights."""
        return self.state.fingerprint if self.hparams.wohk else None

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the edited projections' weights W + ΔW by parameter name: the hooks' updates, without the hooks."""
        return {f"{path}.weight": weight for path, weight in self._layers.updated().items()}

    def edit(
        self, requests: Sequence[EditRequest], targets: Tensor | None = None
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in batches of ``batch_size``, all or none.

        Args:
            requests: the requests.
            targets: their target vectors z, if they are known, shape ``(requests, width)``.

        Returns:
            What was done per request, and what undoes just these batches (those of them that are left, once no
            later one is).

        Raises:
            DataError: a request can't be used.
            EditError: a batch failed.
        """
        if not self.attached:
            raise EditError("these edits have been rolled back for good; get the model's editor anew")
        before, mark = self._layers.contents(), len(self.state.batches)
        if not mark:
            self._unedited = before
        results: list[EditResult] = []
        size = self.hparams.batch_size
        try:
            self._layers.check_writable()
            facts = [self._prepare(request) for request in requests]
            starts = range(0, len(facts), size)
            for start in starts:
                check_batch(facts[start : start + size])
            with editing(self.model), internal_pass(self.model):
                for start in starts:
                    given = None if targets is None else targets[start : start + size]
                    results += self._edit_batch(facts[start : start + size], given)
        except BaseException:
            self._restore(mark, before)
            raise
        # A partial of a method, not a closure: a deep copy of it undoes the copied model's edits.
        return results, functools.partial(self._take_back, self._names(mark), before)

    def back_to(self, batch: int) -> None:
        """Go back to what the model was after so many batches, bitwise: hooks, α, or with ``wohk`` the weights.

        Args:
            batch: how many batches to keep; 0 for the unedited model.

        Raises:
            EditError: there aren't as many.
        """
        count = len(self.state.batches)
        if not 0 <= batch <= count:
            raise EditError(f"there is no going back to batch {batch}: the model carries {count}, so 0 to {count}")
        if batch < count:
            self._layers.check_writable()
            self._restore(batch, self._contents_after(batch))

    def restore(self, batches: Sequence[BatchUpdate]) -> Callable[[], None]:
        """Put batches that were made on the same model, with the same settings, on an editor without any.

        Returns:
            What undoes them.

        Raises:
            EditError: there are batches already, or these belong to other layers.
        """
        if self.state.batches:
            raise EditError("batches can be restored onto an unedited model only")
        unedited = self._layers.contents()
        try:
            self._layers.check_writable()
            for batch in batches:
                if list(batch.layers) != self.state.paths:
                    raise EditError("the batches belong to other layers")
                if set(batch.ordinary) != (set(batch.layers) if self.hparams.weighed else set()):
                    raise EditError("what scores are weighed by is of other layers")
                self.state.batches.append(batch)
                for path, update in batch.layers.items():
                    hook = self.hooks[path]
                    before = hook.weight.delta if hook.weight is not None else None
                    hook.set(update.added_to(before).to(device_of(hook.module)), 0.0, Mode.OFF)
                self._layers.settle(self.alphas, self.state.ordinary)
        except BaseException:
            self._restore(0, unedited)
            raise
        self._unedited = unedited
        return functools.partial(self._take_back, self._names(0), unedited)

    def _names(self, mark: int) -> list[str]:
        return [batch.name for batch in self.state.batches[mark:]]

    def _contents_after(self, count: int) -> dict[str, Tensor | None]:
        """Return what the layers held after so many batches: their updates, added up again as they were."""
        if not self.hparams.wohk:
            return {path: self.state.delta(path, count) for path in self.hooks}
        contents = dict(self._unedited)
        for batch in self.state.batches[:count]:
            for path, update in batch.layers.items():
                weight = contents[path]
                assert weight is not None
                contents[path] = self._layers.changed(path, weight, update.added_to(None).to(weight.device))
        return contents

    def _prepare(self, request: EditRequest) -> Fact:
        return prepare(self.tokenizer, request, self.state.templates, self.hparams, context_length(self.model))

    def _edit_batch(self, facts: Sequence[Fact], given: Tensor | None) -> list[EditResult]:
        began = time.perf_counter()
        self._prepare_solving()
        hparams = self.hparams
        if given is None:
            targets = optimise_targets(self._runner, facts, hparams, hparams.edited_layers[-1])
        else:
            count = len(facts)
            targets = TargetVectors(given, [0] * count, [float("nan")] * count, [False] * count)
        passes = EditingPasses(self._runner, facts, self._blocks)
        updates, ordinary = update_layers(
            self.hooks, self.alphas, self._accumulated, passes, targets.z,
            ordinary=self.state.ordinary if hparams.weighed else None, wohk=hparams.wohk,
        )  # fmt: skip
        highest: Sequence[float | None] = [None] * len(facts)
        alphas, prompts = self.alphas, tuple(tuple(fact.plain.prompt) for fact in facts)
        if not hparams.wohk:
            highest, alphas = self._lowered_alphas(passes, facts, prompts)
        records = tuple(EditRecord.of(fact.request) for fact in facts)
        self.state.batches.append(BatchUpdate(records, updates, alphas, ordinary, prompts))
        self._layers.settle(self.alphas, self.state.ordinary)
        seconds = (time.perf_counter() - began) / len(facts)
        number = len(self.state.batches)
        return [
            EditResult(
                fact.request.case_id, targets.steps[i], targets.losses[i], seconds, targets.learned[i],
                {"batch": number, "z_norm": float(targets.z[i].norm()), "highest_z_score": highest[i]},
            )
            for i, fact in enumerate(facts)
        ]  # fmt: skip

    def _lowered_alphas(
        self, passes: EditingPasses, facts: Sequence[Fact], prompts: Sequence[Sequence[int]]
    ) -> tuple[list[float], dict[str, float]]:
        """Return each prompt's highest z-score in the last layer, and every layer's α after the batch."""
        before, hparams = self.alphas, self.hparams
        highest, alphas = lowered_alphas(self.hooks, before, passes, facts, edited=hparams.alpha_model == "edited")
        if hparams.alpha_prompts == "all":
            earlier = [prompt for batch in self.state.batches for prompt in batch.prompts]
            everything = [*in_turn(earlier, hparams.alpha_checked, len(self.state.batches)), *prompts]
            alphas, given_up = keep_in_scope(
                self._runner, self.hooks, before, alphas, everything, self._blocks[-1], hparams.alpha_floor
            )  # fmt: skip
            if given_up:
                LOG.info(
                    "%d of %d prompts are below alpha_floor and may be out of scope", len(given_up), len(everything)
                )
        return highest, alphas

    def _prepare_solving(self) -> None:
        """Factor what the updates are solved with, before anything is changed."""
        missing = [path for path in self.hooks if path not in self._accumulated]
        if not missing:
            return
        hparams = self.hparams
        if self._moments is None:
            with self._layers.without_edits(self._unedited if hparams.wohk else None):
                self._moments = second_moments(self.model, self.tokenizer, hparams)
        for path in missing:
            statistic, weight = self._moments[path], weight_of(self.hooks[path].module)
            size = len(statistic.moment)
            self._accumulated[path] = AccumulatedKeys(
                statistic.moment, hparams.mom2_update_weight, ridge=regularisation(statistic.count, size),
                device=solving_device(size, device_of(self.hooks[path].module)),
                dtype=torch.promote_types(weight.dtype, torch.float32),
            )  # fmt: skip
            for batch in self.state.batches:
                self._accumulated[path].add(batch.layers[path].keys)

    def _restore(self, mark: int, before: Mapping[str, Tensor | None]) -> None:
        """Go back to the first ``mark`` batches, bitwise."""
        del self.state.batches[mark:]
        count = sum(len(batch.records) for batch in self.state.batches)
        for accumulated in self._accumulated.values():
            accumulated.truncate(count)
        self._layers.put_back(before, self.alphas, self.state.ordinary)
        if not self.state.batches:
            self._detach()

    def _detach(self) -> None:
        self.attached = False
        for hook in self.hooks.values():
            hook.detach()
        unregister_editor(self.model, self.hparams.ALG_NAME, _PLACE)

    def _take_back(self, names: Sequence[str], before: Mapping[str, Tensor | None]) -> None:
        """Take these batches back, those of them that are still in; before the first, layers held ``before``."""
        present = self._names(0)
        own = [number for number, name in enumerate(present) if name in set(names)]
        if not own:
            return
        if own[-1] < len(present) - 1:
            raise EditError("later CoachHook batches are still in place; roll those back first")
        self._layers.check_writable()
        self._restore(own[0], before)


def coachhook_editor(model: Any) -> CoachHookEditor:
    """Return the editor of a model that carries CoachHook edits.

    Raises:
        EditError: it carries none.
    """
    editor = CoachHookEditor.of(model)
    if editor is None:
        raise EditError("the model carries no CoachHook edits")
    return editor
