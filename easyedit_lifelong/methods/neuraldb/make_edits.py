"""Make the edits of requests: keys, target vectors and residuals on the base model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.block_targets import optimise_block_targets
from easyedit_lifelong.methods.locate_edit.check import check_model
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.facts import Fact, encode_fact
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors
from easyedit_lifelong.methods.locate_edit.templates import context_templates
from easyedit_lifelong.methods.neuraldb.auto_gamma import auto_gamma
from easyedit_lifelong.methods.neuraldb.config import AUTO, NeuralDBHyperParams
from easyedit_lifelong.methods.neuraldb.editor import NeuralDBEditor, Prepared
from easyedit_lifelong.methods.neuraldb.fact_table import GAMMA, KEY, KEY_TOKENS, RESIDUAL
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.editors import internal_pass, without_edits
from easyedit_lifelong.methods.shared.model_values import values_of
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import editing
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.wrappers import model_to_edit


class FactEditing:
    """Makes edits and adds them to a model.

    Keys, target vectors and residuals are computed with the model's NeuralDB edits suspended. So no edit depends on
    another one, and each can be removed by itself.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the hyperparameters.

    Raises:
        ModelError: the model lacks a layer that the hyperparameters name.
    """

    def __init__(self, model: Any, tokenizer: Any, hparams: NeuralDBHyperParams) -> None:
        check_model(model, tokenizer, hparams)
        self._model, self._tokenizer, self._hparams = model_to_edit(model), tokenizer, hparams
        self._block = find_module(model, hparams.layer_module_tmp.format(hparams.edited_layers[0]))[1]
        self._path, self._projection = find_module(model, hparams.rewrite_modules[0])

    def edit(
        self, requests: Sequence[EditRequest], targets: torch.Tensor | None = None
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Make the edits of requests in batches of ``batch_size``, then add all of them to the model.

        Args:
            requests: the requests.
            targets: the target vectors z of the requests, shape ``(requests, width)``; None: optimise them.

        Returns:
            The result of each request, and a function that removes these edits.

        Raises:
            DataError: a request cannot be used.
            EditError: an edit failed. Then the model is unchanged.
        """
        model, hparams = self._model, self._hparams
        edits: list[SeparateEdit] = []
        results: list[EditResult] = []
        with ExitStack() as stack:
            stack.enter_context(editing(model))
            stack.enter_context(internal_pass(model))
            for editor in NeuralDBEditor.all_on(model):
                stack.enter_context(editor.without_edits())
            prepared = self._prepare()
            context_limit = context_length(model)
            facts = [
                encode_fact(self._tokenizer, request, prepared.templates, hparams, context_limit)
                for request in requests
            ]
            runner = Runner(model, self._tokenizer)
            for start in range(0, len(facts), hparams.batch_size):
                batch = slice(start, start + hparams.batch_size)
                began = time.perf_counter()
                if targets is None:
                    optimised = optimise_block_targets(runner, facts[batch], hparams, hparams.edited_layers[0])
                else:
                    optimised = TargetVectors.not_optimised(targets[batch])
                edits_of_batch = self._edits(runner, facts[batch], optimised.z, prepared.gamma)
                seconds = (time.perf_counter() - began) / len(edits_of_batch)
                results += [_result(edit, optimised, n, seconds) for n, edit in enumerate(edits_of_batch)]
                edits += edits_of_batch
        remove = NeuralDBEditor.add(model, hparams, edits)
        for editor in NeuralDBEditor.all_on(model):
            editor.prepared = prepared
        return results, remove

    def _prepare(self) -> Prepared:
        """Return the context templates and γ, which are those of the model's editor if its settings are the same.

        Otherwise, they are computed once for the model's weights: after its edits are loaded onto a copy, for example.
        """
        hparams = self._hparams
        settings = (hparams.context_template_length_params, hparams.seed, hparams.gamma, hparams.false_fire_rate)
        for editor in NeuralDBEditor.all_on(self._model):
            if editor.prepared is not None and editor.prepared.settings == settings:
                return editor.prepared
        further = (self._tokenizer, self._path, hparams.fact_token, tuple(hparams.mention_templates))
        return values_of(self._model).get("prepared NeuralDB", (settings, further), lambda: self._compute(settings))

    def _compute(self, settings: tuple[Any, ...]) -> Prepared:
        """Compute the context templates and γ."""
        hparams = self._hparams
        with without_edits(self._model):
            templates = context_templates(
                self._model, self._tokenizer, hparams.context_template_length_params, hparams.seed
            )
        gamma = hparams.gamma
        if gamma == AUTO:
            gamma = auto_gamma(Runner(self._model, self._tokenizer), self._block, self._projection, templates, hparams)
        return Prepared(settings, templates, float(gamma))

    @torch.no_grad()
    def _edits(self, runner: Runner, facts: Sequence[Fact], z: torch.Tensor, gamma: float) -> list[SeparateEdit]:
        """Return the edits of a batch.

        The key is the projection's input at the lookup token, averaged over contexts as in MEMIT. The residual is
        z - h, where h is the output of the block at the lookup token of the plain prompt.

        Args:
            runner: runs the model.
            facts: the batch.
            z: their target vectors, shape ``(facts, width)``.
            gamma: γ.

        Raises:
            EditError: a key or residual is not finite, or a key has no direction.
        """
        passes = EditingPasses(runner, facts, [self._block])
        keys, hidden = passes.keys_and_outputs(self._projection)
        change = z.to(hidden.device).double() - hidden
        residuals = passes.change_of_output(self._projection, change).float().cpu()
        edits = []
        for fact, key, residual in zip(facts, keys.float().cpu(), residuals, strict=True):
            if not (key.isfinite().all() and residual.isfinite().all()) or not key.any():
                raise EditError(
                    f"{fact.request.where}: its key or residual is not finite, or its key is zero, so it can't be found"
                )
            key_tokens = fact.plain.prompt[: fact.plain.lookup + 1]
            record = EditRecord.of(fact.request)
            edits.append(SeparateEdit(record, {GAMMA: gamma, KEY_TOKENS: key_tokens}, {KEY: key, RESIDUAL: residual}))
        return edits


def _result(edit: SeparateEdit, optimised: TargetVectors, n: int, seconds: float) -> EditResult:
    """Return the result of the n-th edit of a batch."""
    detail = {
        "gamma": edit.data[GAMMA],
        "z_norm": float(optimised.z[n].norm()),
        "residual_norm": float(edit.tensors[RESIDUAL].norm()),
    }
    steps, loss, learned = optimised.steps[n], optimised.losses[n], optimised.learned[n]
    return EditResult(edit.record.case_id, steps, loss, seconds, learned, detail)


def apply_neuraldb_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: NeuralDBHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with NeuralDB; ``hparams.batch_size`` target vectors are optimised at once.

    Arguments, result and errors are those of :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`. The
    weights stay unchanged.
    """
    return apply_requests(
        FactEditing, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
