"""The GRACE editor of a layer: trains values and inserts edits into the layer's codebook (arXiv 2211.11031)."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.adaptor import GraceAdaptor
from easyedit_lifelong.methods.grace.check import check_kind, check_layer
from easyedit_lifelong.methods.grace.codebook.decisions import as_label
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.named_layers import find_answer_layer, find_layer
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.grace.subject.named_subjects import NamedSubjects
from easyedit_lifelong.methods.grace.subject.request_texts import RequestTexts
from easyedit_lifelong.methods.grace.subject.subject_edits import SubjectEdits
from easyedit_lifelong.methods.grace.subject.subject_layer import AnswerLayerAdaptor, SubjectAdaptor
from easyedit_lifelong.methods.grace.trained_edits import TrainedEdits
from easyedit_lifelong.methods.grace.training.further_keys import first_part
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.methods.grace.training.replay_support import ReplaySupport
from easyedit_lifelong.methods.grace.training.train_batch import OtherKey, PendingEdit
from easyedit_lifelong.methods.grace.training.value_pass import module_pass
from easyedit_lifelong.methods.shared.apply import check_same_settings
from easyedit_lifelong.methods.shared.editors import editors_on, internal_pass, register_editor
from easyedit_lifelong.methods.shared.records import EditRecord, describe_row
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.model_modes import editing
from easyedit_lifelong.models.padding import padding_changes_answers
from easyedit_lifelong.models.wrappers import model_to_edit

EditBatch = Callable[[], list[EditResult]]
"""A function that makes the edits of one training batch and returns their results."""

SAME_SETTINGS = (
    "eps",
    "dist_fn",
    "eps_expand",
    "query_token",
    "replacement",
    "whiten",
    "key_templates",
    "answer_layer",
    "gate_eps",
    "gate_metric",
    "named_eps",
    "false_fire_rate",
)
"""Settings that all edits of a codebook must share."""


class GraceEditor(TrainedEdits):
    """Inserts edits into the codebook of one layer. :meth:`on` returns a layer's editor.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.

    Attributes:
        hparams: the hyperparameters of the latest call; after a failed call, those of the call before it.
    """

    def __init__(self, model: Any, tokenizer: Any, hparams: GraceHyperParams) -> None:
        model = model_to_edit(model)
        check_layer(model, tokenizer, hparams)
        path, layer = find_layer(model, hparams)
        answer_path, answer_layer = find_answer_layer(model, hparams) or (path, layer)
        super().__init__(model, path, tokenizer, hparams, LayerPasses(model, answer_layer, answer_path))
        self._hparams_before_call = hparams
        self._subjects: SubjectEdits | None = None
        # An adaptor attaches itself to the model. So make it last: a model that can't be edited stays unchanged.
        if hparams.by_subject:
            same_layer = answer_layer is layer
            adaptor = SubjectAdaptor(model, layer) if same_layer else AnswerLayerAdaptor(model, layer, answer_layer)
            if hparams.named_eps is not None and isinstance(adaptor, AnswerLayerAdaptor):
                adaptor.named_subjects = NamedSubjects(tokenizer, self.subjects_of_key, hparams.named_eps)
            self.adaptor = adaptor
            self._subjects = SubjectEdits(model, layer, adaptor, self._passes)
        else:
            self.adaptor = GraceAdaptor(model, layer, hparams.replacement, hparams.query_token)

    @staticmethod
    def all_of(model: Any) -> dict[str, GraceEditor]:
        """Return the editors on a model, by the path of their layer."""
        return editors_on(model, GraceHyperParams.ALG_NAME)

    @classmethod
    def on(cls, model: Any, tokenizer: Any, hparams: GraceHyperParams) -> GraceEditor:
        """Return the editor of the layer that the hyperparameters name; create it if the layer has none.

        Raises:
            ModelError: the model has no such layer, or a setting does not suit its kind.
            EditError: the layer carries edits made with other settings of the codebook.
        """
        check_kind(model, hparams)
        path, _ = find_layer(model, hparams)
        editor = cls.all_of(model).get(path)
        if editor is None:
            editor = cls(model, tokenizer, hparams)
            register_editor(model, hparams.ALG_NAME, path, editor)
            return editor
        check_same_settings(
            f"{path} carries GRACE edits",
            editor.hparams,
            hparams,
            SAME_SETTINGS,
            "Roll them back first, or name another layer in inner_params.",
        )
        editor.tokenizer, editor.hparams = tokenizer, hparams
        return editor

    def edit(self, requests: Sequence[EditRequest]) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in order, all or none.

        Args:
            requests: validated requests.

        Returns:
            One result per request, and a function that rolls back these edits only: see :meth:`remove`.

        Raises:
            DataError: a request can't be used.
            EditError: an edit failed.
        """
        return self._apply_all_or_none(lambda: self._batches(requests))

    def edit_rows(self, rows: Tensor, labels: Sequence[int]) -> tuple[list[EditResult], Callable[[], None]]:
        """Assign other classes to inputs of a plain module, one edit per input, all or none.

        Args:
            rows: the inputs, shape ``(examples, …)``.
            labels: the new class of each input.

        Returns:
            One result per input, and a function that rolls back these edits only.

        Raises:
            EditError: an edit failed.
        """
        examples = enumerate(zip(rows, labels, strict=True))
        edits = [functools.partial(self._edit_row, number, row, label) for number, (row, label) in examples]
        return self._apply_all_or_none(lambda: edits)

    def _batches(self, requests: Sequence[EditRequest]) -> list[EditBatch]:
        """Encode all requests; return a function for each training batch, which makes its edits.

        Raises:
            DataError: a request can't be used.
        """
        size = self._batch_size
        if size > 1 and len(requests) > 1 and padding_changes_answers(self.model):
            size = 1
        slices = [slice(start, start + size) for start in range(0, len(requests), size)]
        if self._subjects is not None:
            encoded = self._subjects.prepare(self.tokenizer, requests, self.hparams)
            return [functools.partial(self._edit_by_subject, self._subjects, encoded[part]) for part in slices]
        pairs = [self._passes.encode(self.tokenizer, request, self.hparams) for request in requests]
        return [functools.partial(self._edit_by_prompt, requests[part], pairs[part]) for part in slices]

    def _edit_by_prompt(self, requests: Sequence[EditRequest], pairs: Sequence[EncodedPair]) -> list[EditResult]:
        """Apply a batch of requests whose queries are taken at the prompt."""
        first_parts = [first_part(pair, self.hparams.tokens_per_key) for pair in pairs]
        value_pass = self._passes.build(self.adaptor, first_parts, self._copies, self._pad_id)
        pending = [_pending_edit(request, pair) for request, pair in zip(requests, pairs, strict=True)]
        results = self._train_and_insert(value_pass, pending, pairs)
        self.records.extend(EditRecord.of(request) for request in requests)
        return results

    def _edit_by_subject(self, subjects: SubjectEdits, encoded: Sequence[RequestTexts]) -> list[EditResult]:
        """Apply a batch of requests whose keys are taken at the subject."""
        batch = subjects.batch(self.tokenizer, encoded, self.hparams, self._pad_id)
        if self.hparams.gate_eps is not None:
            self.gate_size = batch.value_pass.query.shape[1]
        pending = [
            _pending_edit(request_texts.request, request_texts.texts[0].pair, extras, other_keys)
            for request_texts, extras, other_keys in zip(encoded, batch.extras, batch.other_keys, strict=True)
        ]
        pairs = [request_texts.texts[0].pair for request_texts in encoded]
        results = self._train_and_insert(batch.value_pass, pending, pairs, batch.keys)
        self.records.extend(EditRecord.of(request_texts.request) for request_texts in encoded)
        return results

    def _edit_row(self, number: int, row: Tensor, label: int) -> list[EditResult]:
        """Assign another class to one input of a plain module."""
        value_pass = module_pass(self.model, self.adaptor, row, label, self._copies)
        case_id, text = len(self.records), describe_row(row)
        pending = PendingEdit((label,), f"{text}\x00{label}", f"row {number}", case_id)
        results = self._train_and_insert(value_pass, [pending])
        self.records.append(EditRecord(case_id, text, str(label), None, None, now()))
        return results

    def _apply_all_or_none(
        self, prepare: Callable[[], Sequence[EditBatch]]
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Make edits in order. If one of them fails, undo all of them.

        Args:
            prepare: returns the batches of edits. It may fail, too.

        Returns:
            One result per edit, and a function that rolls back these edits only.
        """
        if not self.adaptor.attached:
            raise EditError("these edits have been rolled back for good; get the layer's editor anew")
        edits_before, replay_support = len(self.changes), self.replay_support
        try:
            batches = prepare()
            with editing(self.model), internal_pass(self.model):
                results = [result for batch in batches for result in _timed(batch)]
        except BaseException:
            self.undo_to(edits_before)
            # Saved edits hold the replay support. Without this line, it would depend on an edit that no file holds, and
            # a resumed run would differ.
            self._passes.replay_support = replay_support
            self.hparams = self._hparams_before_call
            raise
        self._hparams_before_call = self.hparams
        # A partial of a method, not a closure: its deep copy rolls back the edits of the copied model.
        return results, functools.partial(self.remove_records, self.records[edits_before:])

    @property
    def replay_support(self) -> ReplaySupport:
        """Whether partial passes are exact on this model, and up to which length."""
        return self._passes.replay_support

    def adopt(self, stored: SerializedEdits) -> Callable[[], None]:
        """Put saved edits on a layer without edits, with their ``replay_support``.

        Returns:
            A function that rolls these edits back.

        Raises:
            EditError: the layer carries edits already.
        """
        undo = super().adopt(stored)
        self._passes.replay_support = stored.replay_support
        return undo

    @property
    def _copies(self) -> int:
        """Copies of a value that are trained at once."""
        return self.hparams.num_pert if self.hparams.val_train == "adv" else 1

    @property
    def _batch_size(self) -> int:
        """Requests that are trained in one batch; 1 if only one is possible or random numbers would depend on it."""
        one_by_one = self._copies > 1 or self.hparams.dropout > 0 or not self._passes.batchable
        return 1 if one_by_one else self.hparams.train_batch


def _pending_edit(
    request: EditRequest, pair: EncodedPair, extras: Tensor | None = None, other_keys: Sequence[OtherKey] = ()
) -> PendingEdit:
    """Return a request as an edit to be trained; see :class:`.PendingEdit` for ``extras`` and ``other_keys``."""
    identity = f"{request.prompt}\x00{request.target_new}"
    return PendingEdit(as_label(pair.target), identity, request.where, request.case_id, extras, other_keys)


def _timed(edit_batch: EditBatch) -> list[EditResult]:
    """Edit a batch; return its results with equal shares of the time that it took."""
    start = time.perf_counter()
    results = edit_batch()
    seconds = (time.perf_counter() - start) / len(results)
    return [dataclasses.replace(result, seconds=seconds) for result in results]
