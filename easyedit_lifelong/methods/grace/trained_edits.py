"""Train the values of edits, and insert the edits into a layer's codebook (arXiv 2211.11031, algorithm 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.check import check_query
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.key_space import new_codebook
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.layer_edits import LayerEdits
from easyedit_lifelong.methods.grace.training.answer_pass import AnswerPass
from easyedit_lifelong.methods.grace.training.further_keys import train_further_keys
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.methods.grace.training.optimise import TrainedValue
from easyedit_lifelong.methods.grace.training.train_batch import (
    PendingEdit,
    PlannedEdit,
    initial_values,
    plan_edits,
    train_batch,
)
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.model_modes import dropping_out


class TrainedEdits(LayerEdits):
    """Trains the values of edits and inserts them into the codebook of a layer. The base class of the layer's editor.

    Args:
        model: the model.
        path: the path of the edited layer.
        tokenizer: the model's tokenizer.
        hparams: GRACE's hyperparameters.
        passes: makes the passes in which values are trained.

    Attributes:
        hparams: the hyperparameters of the next edits.
    """

    def __init__(self, model: Any, path: str, tokenizer: Any, hparams: GraceHyperParams, passes: LayerPasses) -> None:
        super().__init__(model, path)
        self.tokenizer, self.hparams, self._passes = tokenizer, hparams, passes

    @property
    def _pad_id(self) -> int:
        """The tokenizer's padding token id; 0 if it has none."""
        return getattr(self.tokenizer, "pad_token_id", None) or 0

    def _train_and_insert(
        self,
        value_pass: ValuePass,
        pending: Sequence[PendingEdit],
        pairs: Sequence[EncodedPair] = (),
        queries: Tensor | None = None,
    ) -> list[EditResult]:
        """Train the values of a batch of edits, and insert the edits into the codebook in order (algorithm 1).

        Args:
            value_pass: the pass over the batch's prompts and targets, the same number of rows for each edit.
            pending: the edits.
            pairs: their prompts and targets, needed for further keys.
            queries: their queries, shape ``(edits, key_vectors * key_size)``; by default, those of the pass.

        Returns:
            One result per edit.

        Raises:
            EditError: a query, a loss or a value is NaN or infinite, or a query is zero with ``dist_fn: cos``; the
                message names the edit.
        """
        hparams = self.hparams
        if queries is None:
            rows_per_edit = len(value_pass.targets) // len(pending)
            queries = value_pass.query[::rows_per_edit]
        for query, edit in zip(queries, pending, strict=True):
            for checked in (query, *(other.query for other in edit.other_keys)):
                check_query(checked, hparams, f"{edit.where}: the model's activations at {self.path}")
        codebook = self.codebook
        if codebook is None:
            value_width = len(pending[0].with_extras(value_pass.output[0]))
            codebook = self._new_codebook(queries.shape[1], value_width, queries.device)
        planned = plan_edits(codebook, queries, pending, initial_values(value_pass, pending, hparams))
        dropout_seed = f"{hparams.seed}\x00dropout\x00{pending[0].identity}"
        with dropping_out(self._passes.modules_from_layer_on(), hparams.dropout, dropout_seed):
            trained = train_batch(value_pass, planned, pending, hparams)
        if self.codebook is None:
            self.adaptor.install(codebook)
        results = [self._insert(codebook, *edit) for edit in zip(queries, pending, planned, trained, strict=True)]
        if not self.hparams.tokens_per_key:
            return results
        first_change = len(self.changes) - len(results)
        further = zip(pairs, pending, trained, results, strict=True)
        return [self._add_further_keys(codebook, first_change + n, *edit) for n, edit in enumerate(further)]

    def _insert(
        self, codebook: Codebook, query: Tensor, edit: PendingEdit, planned: PlannedEdit, trained: TrainedValue
    ) -> EditResult:
        """Insert an edit into the codebook as planned, with its trained value; return its result without its time."""
        match = planned.match
        decision, index, change = codebook.insert(
            query, edit.label, edit.with_extras(trained.value), (planned.decision, match)
        )
        self.changes.append(change)
        self.changes[-1] = edit.insert_other_keys(codebook, change, trained.value)
        return EditResult(
            case_id=edit.case_id,
            steps=trained.steps,
            loss=trained.loss,
            learned=trained.learned,
            seconds=0.0,
            detail={
                "decision": decision.value,
                "key": index,
                "radius": float(codebook.radii[index]),
                "nearest_distance": match.distance if match.index >= 0 else None,
                "n_keys": len(codebook),
            },
        )

    def _add_further_keys(
        self,
        codebook: Codebook,
        number: int,
        pair: EncodedPair,
        edit: PendingEdit,
        first: TrainedValue,
        result: EditResult,
    ) -> EditResult:
        """Train and insert the further keys of an edit whose first key is in the codebook; return its new result.

        Args:
            codebook: the codebook.
            number: number of the edit's change.
            pair: its prompt and target.
            edit: the edit.
            first: the trained value of its first key.
            result: its result so far.
        """
        hparams, trained = self.hparams, first
        if len(pair.target) > hparams.tokens_per_key:
            answer_pass = self._passes.build(self.adaptor, [pair], 1, self._pad_id, pass_class=AnswerPass)
            assert isinstance(answer_pass, AnswerPass)
            dropout_seed = f"{hparams.seed}\x00dropout of further keys\x00{edit.identity}"
            with dropping_out(self._passes.modules_from_layer_on(), hparams.dropout, dropout_seed):
                rows, trained = train_further_keys(answer_pass, first, codebook, hparams, edit)
            self.changes[number] = codebook.add_further_keys(self.changes[number], rows)
        detail = {**result.detail, "further_keys": len(self.changes[number].further)}
        return dataclasses.replace(
            result, steps=trained.steps, loss=trained.loss, learned=trained.learned, detail=detail
        )

    def _new_codebook(self, key_width: int, value_width: int, device: torch.device) -> Codebook:
        return new_codebook(self.hparams, key_width, value_width, self.key_space, self.rounding, device)
