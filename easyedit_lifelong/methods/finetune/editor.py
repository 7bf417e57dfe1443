"""The editor of the fine-tuning methods, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.finetune.config import (
    FineTuneHyperParams,
    FTEWCHyperParams,
    FTHyperParams,
    FTLHyperParams,
    FTRetrainHyperParams,
    LocFTBFHyperParams,
)
from easyedit_lifelong.methods.finetune.penalties import (
    clamp_change,
    ewc_penalty,
    fisher_information,
    kl_penalty,
)
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult, Outcome
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.methods.training.example_passes import ExamplePasses, Weights
from easyedit_lifelong.methods.training.examples import (
    Example,
    RequestExample,
    encode_record,
    encode_request,
    latest_examples,
)
from easyedit_lifelong.methods.training.train import Penalty, Schedule, train
from easyedit_lifelong.methods.weight_updates.batch_editor import BatchEditor
from easyedit_lifelong.methods.weight_updates.check import check_projections, check_same_targets
from easyedit_lifelong.methods.weight_updates.dense_update import DenseBatch, DenseUpdate
from easyedit_lifelong.models.anatomy import is_transposed
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import frozen
from easyedit_lifelong.models.wrappers import model_to_edit


class FineTuneEditor(BatchEditor[DenseBatch]):
    """Edits a model by training some of its weights. Get it with :meth:`on`.

    Each batch is one dense update of every edited weight. What a method needs of earlier edits, it computes from their
    records and the present weights, so edits that are loaded or rolled back need nothing else.

    Raises:
        ModelError: the model lacks a layer that the hyperparameters name.
    """

    batch_class = DenseBatch
    hparams: FineTuneHyperParams

    def __init__(self, model: Any, tokenizer: Any, hparams: FineTuneHyperParams) -> None:
        check_projections(model, hparams)
        super().__init__(model_to_edit(model), tokenizer, hparams)
        self._encoded: list[Example] = []
        """The examples of the first edits of the history: those that were needed so far."""

    def encode(self, request: EditRequest) -> RequestExample:
        """Encode a request as a training example."""
        return encode_request(self.tokenizer, request, self.hparams.eos, context_length(self.model))

    def check_batch(self, items: Sequence[RequestExample]) -> None:
        """Check that requests that are trained in one step agree."""
        if self.hparams.order == "breadth-first":
            check_same_targets((item.example.prompt, item.request) for item in items)

    def edit_batch(self, items: Sequence[RequestExample]) -> tuple[DenseBatch, list[Outcome]]:
        """Train on one batch; return it, and the outcome of each request."""
        examples = [item.example for item in items]
        before = {path: self._layers.master_weight(path).clone() for path in self._layers.modules}
        trained = {path: weight.clone().requires_grad_() for path, weight in before.items()}
        passes = ExamplePasses(self._runner, self._layers.modules)
        earlier = self._earlier_examples()
        trainings: list[dict[str, int]] = []
        with frozen(self.model):
            for group in self._groups(examples):
                training = self._train_group(passes, trained, before, group, earlier + examples[: len(trainings)])
                trainings += [training] * len(group)
        updates = {
            path: _update(self._layers.modules[path], weight.detach() - before[path])
            for path, weight in trained.items()
        }
        for path, update in updates.items():
            self._layers.apply(path, update)
        result = passes.losses_of_edited_model(examples, self.hparams.examples_per_step)
        outcomes = [
            Outcome(training["steps"], loss, correct, {"earlier_edits": training["earlier_edits"]})
            for training, loss, correct in zip(trainings, result.losses.tolist(), result.correct.tolist(), strict=True)
        ]
        return DenseBatch(tuple(EditRecord.of(item.request) for item in items), updates), outcomes

    def _groups(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """Yield the examples that are trained on at a time: each by itself (depth-first), or all (breadth-first)."""
        if self.hparams.order == "breadth-first":
            yield examples
        else:
            yield from ([example] for example in examples)

    def _earlier_examples(self) -> list[Example]:
        """Return the examples of the edits that are on the model, in order, if the method uses them."""
        hparams = self.hparams
        if not (hparams.ewc_lambda or hparams.retrain_frequency or hparams.replays_history):
            return []
        records = [record for batch in self.state.batches for record in batch.records]
        later = records[len(self._encoded) :]
        self._encoded += [encode_record(self.tokenizer, record, hparams.eos) for record in later]
        return self._encoded

    def _forget_removed_batches(self) -> None:
        """Forget the examples of the batches that are no longer in the history."""
        del self._encoded[sum(len(batch.records) for batch in self.state.batches) :]

    def _train_group(
        self,
        passes: ExamplePasses,
        weights: dict[str, Tensor],
        before: dict[str, Tensor],
        group: Sequence[Example],
        earlier: list[Example],
    ) -> dict[str, int]:
        """Train on examples. If the settings say so, first train again on earlier edits, or add penalties to the loss.

        Args:
            passes: runs the examples.
            weights: the weights, which are trained in place, by path.
            before: the weights before this batch.
            group: the examples.
            earlier: the examples of all earlier edits.

        Returns:
            The number of optimiser ``steps`` on the examples, and the number of ``earlier_edits`` that were used.
        """
        hparams = self.hparams
        constrain = self._constraint(before)
        # The answers that the group replaces must be neither trained again nor protected.
        replaced = {example.prompt for example in group}
        past = [example for example in latest_examples(earlier) if example.prompt not in replaced]
        used: set[Example] = set()
        frequency = hparams.retrain_frequency
        if past and frequency and len(earlier) // frequency < (len(earlier) + len(group)) // frequency:
            replayed = past[-(hparams.retrain_memory or len(past)) :]
            used.update(replayed)
            schedule = Schedule(hparams.retrain_epochs, hparams.lr, hparams.weight_decay)
            train(passes, weights, replayed, schedule, constrain=constrain)
        penalties: list[Penalty] = []
        if past and hparams.ewc_lambda:
            protected = past[-hparams.fisher_mem :]
            used.update(protected)
            fisher = fisher_information(passes, weights, protected)
            start = {path: weight.detach().clone() for path, weight in weights.items()}
            penalties.append(ewc_penalty(hparams.ewc_lambda, fisher, start))
        if hparams.kl_factor:
            penalties.append(kl_penalty(hparams.kl_factor, passes, before))
        history = past if hparams.replays_history else []
        used.update(history)
        schedule = self._schedule(len(earlier))
        steps = train(passes, weights, [*history, *group], schedule, penalties, constrain)
        return {"steps": len(steps), "earlier_edits": len(used)}

    def _constraint(self, before: dict[str, Tensor]) -> Callable[[Weights], None] | None:
        """Return the function that limits the change of the weights; None if there is no limit.

        Args:
            before: the weights before this batch.
        """
        hparams = self.hparams
        if hparams.norm_constraint is None:
            return None
        unedited = {path: weight for path, weight in self._unedited.items() if weight is not None}
        centers = before if hparams.norm_center == "batch" else unedited
        return functools.partial(clamp_change, centers=centers, limit=hparams.norm_constraint, norm=hparams.norm)

    def _schedule(self, earlier_edits: int) -> Schedule:
        """Return the schedule of the edits themselves.

        Args:
            earlier_edits: the number of earlier edits that the method reads. With the seed, it determines the order.
        """
        hparams = self.hparams
        return Schedule(
            hparams.num_steps,
            hparams.lr,
            hparams.weight_decay,
            hparams.examples_per_step,
            hparams.stop_loss,
            hparams.stop_when_correct,
            random.Random(f"{hparams.seed}, {earlier_edits}") if hparams.shuffle else None,
        )


def _update(module: Any, change: Tensor) -> DenseUpdate:
    """Return the update of a projection, from the change of its weight in the orientation of the weight."""
    return DenseUpdate((change.t() if is_transposed(module) else change).contiguous().cpu())


class FTEditor(FineTuneEditor):
    """Edits a model with FT, the baseline of GRACE."""

    hparams_class = FTHyperParams


class FTLEditor(FineTuneEditor):
    """Edits a model with FT-L: fine-tuning with a limit on the change of the weights."""

    hparams_class = FTLHyperParams


class FTEWCEditor(FineTuneEditor):
    """Edits a model with FT+EWC: fine-tuning with a penalty on weights that earlier edits depend on."""

    hparams_class = FTEWCHyperParams


class FTRetrainEditor(FineTuneEditor):
    """Edits a model with FT+Retrain: fine-tuning, with regular training on earlier edits."""

    hparams_class = FTRetrainHyperParams


class LocFTBFEditor(FineTuneEditor):
    """Edits a model with LocFT-BF: breadth-first fine-tuning of one projection."""

    hparams_class = LocFTBFHyperParams


EDITORS: tuple[type[FineTuneEditor], ...] = (FTEditor, FTLEditor, FTEWCEditor, FTRetrainEditor, LocFTBFEditor)


def apply_finetune_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: FineTuneHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model by fine-tuning, in batches of ``hparams.batch_size``.

    The class of the hyperparameters determines the method: :class:`FTHyperParams`, :class:`FTLHyperParams`,
    :class:`FTEWCHyperParams`, :class:`FTRetrainHyperParams` or :class:`LocFTBFHyperParams`. Requests need no subject.
    Arguments, result and errors are those of :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`.
    """
    editor_class = next(editor for editor in EDITORS if isinstance(hparams, editor.hparams_class))
    return apply_requests(
        editor_class.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
