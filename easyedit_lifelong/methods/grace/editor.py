"""The GRACE editor of a layer: edits enter its codebook in order (arXiv 2211.11031)."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.check import check_layer
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import as_label
from easyedit_lifelong.methods.grace.codebook.key_space import new_codebook
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.layer import GraceAdaptor
from easyedit_lifelong.methods.grace.layer_edits import LayerEdits
from easyedit_lifelong.methods.grace.named_layers import answering_layer, find_layer
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.grace.subject.contexts import Case
from easyedit_lifelong.methods.grace.subject.subject_edits import SubjectEdits
from easyedit_lifelong.methods.grace.subject.subject_layer import LateAdaptor, SubjectAdaptor
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.methods.grace.training.train_batch import PendingEdit, fresh_values, plan, train_batch
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass, module_pass
from easyedit_lifelong.methods.shared.apply import check_continues
from easyedit_lifelong.methods.shared.editors import editors_on, internal_pass, register_editor
from easyedit_lifelong.methods.shared.records import EditRecord, describe_row
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.modes import dropping_out, editing
from easyedit_lifelong.models.wrappers import model_to_edit

LOG = logging.getLogger(__name__)

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
    "false_fire_rate",
)
"""Settings that all edits of a codebook must share."""


class GraceEditor(LayerEdits):
    """Enters edits into the codebook of one layer. Get it with :meth:`on`.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.

    Attributes:
        hparams: the hyperparameters of the latest edits.
    """

    def __init__(self, model: Any, tokenizer: Any, hparams: GraceHyperParams) -> None:
        model = model_to_edit(model)
        check_layer(model, tokenizer, hparams)
        path, layer = find_layer(model, hparams)
        super().__init__(model, path)
        self.tokenizer, self.hparams = tokenizer, hparams
        self._hparams_of_edits = hparams
        answering_path, answering = answering_layer(model, hparams) or (self.path, layer)
        self._passes = LayerPasses(model, answering, answering_path)
        self._subjects: SubjectEdits | None = None
        # Last, so that a model that can't be taken apart stays as it is.
        if not hparams.by_subject:
            self.adaptor = GraceAdaptor(model, layer, hparams.replacement, hparams.query_token)
            return
        found = SubjectAdaptor(model, layer) if answering is layer else LateAdaptor(model, layer, answering)
        self.adaptor = found
        self._subjects = SubjectEdits(model, self.path, layer, found, self._passes)

    @staticmethod
    def all_of(model: Any) -> dict[str, GraceEditor]:
        """Return the editors that are on a model, by path of their layer."""
        return editors_on(model, GraceHyperParams.ALG_NAME)

    @classmethod
    def on(cls, model: Any, tokenizer: Any, hparams: GraceHyperParams) -> GraceEditor:
        """Return the editor of the model's layer that the hyperparameters name.

        Raises:
            ModelError: there is no such layer.
            EditError: the layer carries edits made with other settings of the codebook.
        """
        path, _ = find_layer(model, hparams)
        editor = cls.all_of(model).get(path)
        if editor is None:
            editor = cls(model, tokenizer, hparams)
            register_editor(model, hparams.ALG_NAME, path, editor)
            return editor
        check_continues(
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

        Returns:
            What was done per request, and what undoes just these edits: see :meth:`remove`.

        Raises:
            DataError: a request can't be used.
            EditError: an edit failed.
        """
        pad, subjects = getattr(self.tokenizer, "pad_token_id", None) or 0, self._subjects

        def edit_by_subject(cases: Sequence[Case]) -> list[EditResult]:
            assert subjects is not None
            batch = subjects.batch(self.tokenizer, cases, self.hparams, pad)
            if self.hparams.gate_eps is not None:
                self.gate_size = batch.value_pass.query.shape[1]
            some = [case.request for case in cases]
            pending = [
                PendingEdit(
                    as_label(case.texts[0].pair.target),
                    f"{one.prompt}\x00{one.target_new}",
                    one.where,
                    one.case_id,
                    extras,
                )
                for one, case, extras in zip(some, cases, batch.extras, strict=True)
            ]
            results = self._record(batch.value_pass, pending, batch.keys)
            self.records += [EditRecord.of(request) for request in some]
            return results

        def edit_some(some: Sequence[EditRequest], pairs: Sequence[EncodedPair]) -> list[EditResult]:
            value_pass = self._passes.of(self.adaptor, pairs, self._copies, pad)
            pending = [
                PendingEdit(as_label(pair.target), f"{one.prompt}\x00{one.target_new}", one.where, one.case_id)
                for one, pair in zip(some, pairs, strict=True)
            ]
            results = self._record(value_pass, pending)
            self.records += [EditRecord.of(request) for request in some]
            return results

        def prepare() -> list[Callable[[], list[EditResult]]]:
            if subjects is not None:
                cases, size = subjects.prepare(self.tokenizer, requests, self.hparams), self._batch_size
                return [functools.partial(edit_by_subject, cases[n : n + size]) for n in range(0, len(cases), size)]
            pairs = [self._passes.encode(self.tokenizer, request, self.hparams.replacement) for request in requests]
            size = self._batch_size
            starts = range(0, len(requests), size)
            return [functools.partial(edit_some, requests[n : n + size], pairs[n : n + size]) for n in starts]

        return self._all_or_none(prepare)

    def edit_rows(self, rows: Tensor, labels: Sequence[int]) -> tuple[list[EditResult], Callable[[], None]]:
        """Make a plain module give some of its inputs other classes, one after the other, all or none.

        Args:
            rows: the inputs, shape ``(examples, …)``.
            labels: their classes.

        Returns:
            As :meth:`edit`.

        Raises:
            EditError: an edit failed.
        """

        def edit_one(number: int, row: Tensor, label: int) -> list[EditResult]:
            value_pass = module_pass(self.model, self.adaptor, row, label, self._copies)
            case_id, text = len(self.records), describe_row(row)
            results = self._record(value_pass, [PendingEdit((label,), f"{text}\x00{label}", f"row {number}", case_id)])
            self.records.append(EditRecord(case_id, text, str(label), None, None, now()))
            return results

        edits = [functools.partial(edit_one, n, *one) for n, one in enumerate(zip(rows, labels, strict=True))]
        return self._all_or_none(lambda: edits)

    def _all_or_none(
        self, prepare: Callable[[], Sequence[Callable[[], list[EditResult]]]]
    ) -> tuple[list[EditResult], Callable[[], None]]:
        """Make the edits that ``prepare`` returns, in order; if it or one of them fails, none of them."""
        if not self.adaptor.attached:
            raise EditError("these edits have been rolled back for good; get the layer's editor anew")
        mark, replay_support = len(self.changes), self.replay_support
        try:
            edits = prepare()
            with editing(self.model), internal_pass(self.model):
                results = [result for edit in edits for result in _timed(edit)]
        except BaseException:
            self.undo_to(mark)
            # What a failed edit found out isn't stored with any edit, so a resumed run wouldn't know it.
            self._passes.replay_support = replay_support
            self.hparams = self._hparams_of_edits
            raise
        self._hparams_of_edits = self.hparams
        # A partial of a method, not a closure: a deep copy of it undoes the copied model's edits.
        return results, functools.partial(self.take_back, self.records[mark:])

    @property
    def replay_support(self) -> tuple[bool | None, int]:
        """What the edits so far have shown of the model: whether it can be replayed in part, up to which length."""
        return self._passes.replay_support

    def adopt(self, stored: SerializedEdits) -> Callable[[], None]:
        """Take over saved edits, on a layer without any, and what they had shown of the model.

        Returns:
            A function that takes them off again.

        Raises:
            EditError: there are edits already.
        """
        undo = super().adopt(stored)
        self._passes.replay_support = stored.replay_support
        return undo

    @property
    def _copies(self) -> int:
        return self.hparams.num_pert if self.hparams.val_train == "adv" else 1

    @property
    def _batch_size(self) -> int:
        """How many requests are trained together; what is drawn at random in a pass is drawn for one alone."""
        alone = self._copies > 1 or self.hparams.dropout > 0 or not self._passes.batchable
        return 1 if alone else self.hparams.train_batch

    def _record(
        self, value_pass: ValuePass, pending: Sequence[PendingEdit], queries: Tensor | None = None
    ) -> list[EditResult]:
        """Train the values of a pass's edits, and enter them in order; with the pass's queries, or with others."""
        hparams, copies = self.hparams, len(value_pass.targets) // len(pending)
        if queries is None:
            queries = value_pass.query[::copies]
        for query, one in zip(queries, pending, strict=True):
            if not torch.isfinite(query).all():
                raise EditError(f"{one.where}: the model's activations at {self.path} are NaN or infinite")
        codebook = self.codebook
        if codebook is None:
            width = len(pending[0].with_extras(value_pass.output[0]))
            codebook = self._new_codebook(queries.shape[1], width, queries.device)
        planned = plan(codebook, queries, pending, fresh_values(value_pass, pending, hparams))
        drops = f"{hparams.seed}\x00dropout\x00{pending[0].identity}"
        with dropping_out(self._passes.above(), hparams.dropout, drops):
            trained = train_batch(value_pass, planned, pending, hparams)
        if self.codebook is None:
            self.adaptor.install(codebook)
        results = []
        for query, one, how, value in zip(queries, pending, planned, trained, strict=True):
            decision, index, change = codebook.enter(
                query, one.label, one.with_extras(value.value), (how.decision, how.match)
            )
            self.changes.append(change)
            results.append(
                EditResult(
                    case_id=one.case_id,
                    steps=value.steps,
                    loss=value.loss,
                    learned=value.learned,
                    seconds=0.0,
                    detail={
                        "decision": decision.value,
                        "key": index,
                        "radius": float(codebook.radii[index]),
                        "nearest_distance": how.match.distance if how.match.index >= 0 else None,
                        "n_keys": len(codebook),
                    },
                )
            )
        return results

    def _new_codebook(self, key_width: int, value_width: int, device: torch.device) -> Codebook:
        return new_codebook(self.hparams, key_width, value_width, self.gate_size, self.rounding, device)


def _timed(edit: Callable[[], list[EditResult]]) -> list[EditResult]:
    """Edit, and note how long it took, in equal shares."""
    began = time.perf_counter()
    results = edit()
    seconds = (time.perf_counter() - began) / len(results)
    return [dataclasses.replace(result, seconds=seconds) for result in results]
