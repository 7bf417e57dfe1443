"""Make the edits of requests: the texts of their facts and the embeddings of their prompts."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError, ModelError
from easyedit_lifelong.methods.retrieval.config import RetrievalHyperParams
from easyedit_lifelong.methods.retrieval.contexts import PROMPT, encode_edit, join_context, without_beginning
from easyedit_lifelong.methods.retrieval.demonstrations import Demonstrations, demonstration_settings
from easyedit_lifelong.methods.retrieval.editor import EDITORS, KEY, MEAN, SPREAD, Comparison, RetrievalEditor
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.editors import internal_pass
from easyedit_lifelong.methods.shared.encoded_requests import encode_request
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
from easyedit_lifelong.models.answer_passes import AnswerLoss, AnswerPasses
from easyedit_lifelong.models.context_attachment import inner_model
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import editing
from easyedit_lifelong.models.pair_encoders import encoder_for
from easyedit_lifelong.models.partial_pass import same_logits
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.wrappers import model_to_edit


class RetrievalEditing:
    """Makes edits and adds them to a model.

    Args:
        editor_class: the class of the method's editor.
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the hyperparameters.

    Raises:
        ModelError: the model cannot be edited with these hyperparameters.
    """

    def __init__(
        self, editor_class: type[RetrievalEditor], model: Any, tokenizer: Any, hparams: RetrievalHyperParams
    ) -> None:
        inner_model(model)
        self._editor_class = editor_class
        self._model, self._tokenizer, self._hparams = model_to_edit(model), tokenizer, hparams

    def edit(self, requests: Sequence[EditRequest]) -> tuple[list[EditResult], Callable[[], None]]:
        """Make the edits of requests, then add all of them to the model.

        Returns:
            The result of each request, and a function that removes these edits. The loss of a result is that of the
            target after the request's own fact and prompt.

        Raises:
            DataError: a request cannot be used.
            EditError: an edit failed. Then the model is unchanged.
        """
        began = time.perf_counter()
        editors = self._editor_class.all_on(self._model)
        with ExitStack() as stack:
            stack.enter_context(editing(self._model))
            stack.enter_context(internal_pass(self._model))
            for editor in editors:
                stack.enter_context(editor.without_edits())
            comparison = self._comparison(editors)
            demonstrations = self._demonstrations(editors, comparison)
            edits = self._edits(requests, comparison, demonstrations)
            losses = self._losses(requests, edits)
        remove = self._editor_class.add(self._model, self._hparams, edits)
        for editor in self._editor_class.all_on(self._model):
            editor.comparison, editor.demonstrations = comparison, demonstrations
        try:
            if not editors:
                self._check_prefix(edits[0])
        except BaseException:
            remove()
            raise
        seconds = (time.perf_counter() - began) / len(edits)
        results = [
            EditResult(edit.record.case_id, 0, loss.loss, seconds, loss.correct, self._detail(edit))
            for edit, loss in zip(edits, losses, strict=True)
        ]
        return results, remove

    @torch.no_grad()
    def _edits(
        self, requests: Sequence[EditRequest], comparison: Comparison, demonstrations: Demonstrations
    ) -> list[SeparateEdit]:
        """Return the edits of requests.

        Raises:
            DataError: a request cannot be encoded.
            EditError: the embedding of a prompt is not finite.
        """
        data = [
            encode_edit(self._tokenizer, request, self._hparams, demonstrations.nearest(request.question))
            for request in requests
        ]
        keys = comparison.embedder.embed([values[PROMPT] for values in data]).cpu()
        standardisation = comparison.standardisation
        tensors = {MEAN: standardisation.mean.cpu(), SPREAD: standardisation.spread.cpu()}
        for request, key in zip(requests, keys, strict=True):
            if not key.isfinite().all():
                raise EditError(f"{request.where}: the embedding of its prompt is not finite")
        return [
            SeparateEdit(EditRecord.of(request), {**values, **comparison.scope}, {KEY: key.clone(), **tensors})
            for request, values, key in zip(requests, data, keys, strict=True)
        ]

    def _comparison(self, editors: Sequence[RetrievalEditor]) -> Comparison:
        """Return how prompts are compared with the model's edits; without edits, measure what is needed.

        Raises:
            EditError: embeddings are not finite.
        """
        for editor in editors:
            if editor.comparison is not None:
                return editor.comparison
        measured = self._editor_class.prepare(self._model, self._tokenizer, self._hparams, [])
        standardisation = measured.standardisation
        if not (standardisation.mean.isfinite().all() and standardisation.spread.isfinite().all()):
            raise EditError("the model's embeddings of sample sentences are not finite, so no prompt can be compared")
        return measured

    def _demonstrations(self, editors: Sequence[RetrievalEditor], comparison: Comparison) -> Demonstrations:
        """Return the demonstrations of the settings: those of the model's edits, or else read and embedded here.

        Raises:
            DataError: the file does not exist, or a record is invalid.
        """
        for editor in editors:
            known = editor.demonstrations
            if known is not None and known.settings == demonstration_settings(self._hparams):
                return known
        return Demonstrations(self._tokenizer, self._hparams, comparison.embedder, comparison.space)

    def _losses(self, requests: Sequence[EditRequest], edits: Sequence[SeparateEdit]) -> list[AnswerLoss]:
        """Return the loss of each target after its fact and prompt, by the definition: as one text.

        Raises:
            DataError: prompt and target cannot be encoded, or are too long with the fact.
            EditError: a loss is not finite.
        """
        encode, limit = encoder_for(self._model, self._tokenizer), context_length(self._model)
        pairs = []
        for request, edit in zip(requests, edits, strict=True):
            target = encode_request(encode, request, limit).target
            pair = EncodedPair(join_context([edit.data]) + without_beginning(edit.data), target)
            if limit is not None and pair.length > limit:
                raise DataError(
                    f"{request.where}, field 'prompt': the fact, the prompt and the target have {pair.length} tokens, "
                    f"the model's context is {limit}. Shorten the prompt, or lower n_demonstrations."
                )
            pairs.append(pair)
        losses = AnswerPasses(Runner(self._model, self._tokenizer), pairs, self._hparams.batch_size).losses()
        for request, loss in zip(requests, losses, strict=True):
            if not torch.tensor(loss.loss).isfinite():
                raise EditError(f"{request.where}: the loss of its target is not finite")
        return losses

    def _check_prefix(self, edit: SeparateEdit) -> None:
        """Check that a fact in front of a prompt has the same effect as one text of both.

        Raises:
            ModelError: the model computes positions or attention in a way that does not allow it.
        """
        runner = Runner(self._model, self._tokenizer)
        (editor,) = self._editor_class.all_on(self._model)
        prompt = list(edit.data[PROMPT])
        (context,) = editor.contexts_of([prompt]) or [None]
        if context is None:
            return
        with editing(self._model), internal_pass(self._model), torch.no_grad():  # editing() turns gradients on
            edited = self._last_logits(runner, prompt)
            with editor.without_edits():
                as_text = self._last_logits(runner, context + without_beginning(edit.data))
        if not same_logits(edited, as_text, edited.dtype):
            raise ModelError(
                f"{type(self._model).__name__} does not answer to a fact in its cache as to a fact in its prompt, so "
                "facts can't be put in front of prompts. Edit it with another method."
            )

    def _last_logits(self, runner: Runner, tokens: list[int]) -> torch.Tensor:
        """Return the model's logits at the last token of a row, shape ``(vocabulary,)``."""
        ids = torch.tensor([tokens], device=runner.device)
        return runner.call(ids, torch.ones_like(ids), [len(tokens)])[0, -1]

    def _detail(self, edit: SeparateEdit) -> dict[str, Any]:
        """Return what the result of an edit reports."""
        threshold = self._editor_class.threshold_of(edit)
        scope = {} if threshold is None else {"threshold": threshold}
        return {"context_tokens": len(join_context([edit.data])), **scope}


def apply_retrieval_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: RetrievalHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with the retrieval method of ``hparams``: facts are put in front of prompts.

    Arguments, result and errors are those of :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`. The
    weights stay unchanged.
    """
    editor_class = next(editor for editor in EDITORS if isinstance(hparams, editor.hparams_class))
    make_editor = functools.partial(RetrievalEditing, editor_class)
    return apply_requests(
        make_editor, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
