"""The ports: what an editing method can implement, and the data that it exchanges with the rest of the package.

:class:`EditMethod` needs a name, a hyperparameter class and an apply function. Every other field is optional. The
loops, ``edits/``, the commands and the report call these ports and know no method by name; see docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from easyedit_lifelong.methods.calibrator import Calibrator
from easyedit_lifelong.methods.edit_stores import EditsPart, EditStore, StateKeeper
from easyedit_lifelong.methods.report_sections import ReportSection, RunRecord
from easyedit_lifelong.methods.search_space import SearchSpace
from easyedit_lifelong.methods.trained_editor import TrainedEditor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from easyedit_lifelong.data.request import EditRequest
    from easyedit_lifelong.evaluation.scope import ScopeStudy
    from easyedit_lifelong.methods.shared.records import EditRecord
    from easyedit_lifelong.models.encoding import EncodedPair
    from easyedit_lifelong.models.model_kinds import ModelKind


# ---------------------------------------------------------------------- remove edits


class CaseRemoval(Protocol):
    """Removes single edits from a model, or from a folder without the model.

    ``rollback_case`` and ``rollback --case`` use this port.
    """

    def records(self, model: Any) -> list[EditRecord]:
        """Return the records of all the method's edits on a model, of all its editors, in order."""

    def remove(self, model: Any, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Remove edits from a model, as if they had never been made. The other edits stay.

        Args:
            model: the edited model.
            records: the records of the edits to remove: objects that :meth:`records` returned.
            check_only: only check whether the edits can be removed.

        Raises:
            EditError: the edits cannot be removed. Then the model is unchanged.
        """

    def remove_from(self, part: EditsPart, numbers: Collection[int], where: str) -> EditsPart:
        """Return a part without some of its edits.

        Args:
            part: the edits.
            numbers: the indices of the edits to leave out, counted from 0.
            where: the file that the part was read from, for messages.

        Raises:
            EditError: the edits cannot be removed.
            RunError: the part is incomplete.
        """


class BatchRemoval(Protocol):
    """Removes the latest batches from a model, or from a folder without the model.

    ``rollback_to_batch`` and ``rollback --to-batch`` use this port.
    """

    def back_to(self, model: Any, batch: int) -> None:
        """Restore a model to what it was, bitwise, after its first ``batch`` batches.

        Args:
            model: the edited model.
            batch: how many batches to keep.

        Raises:
            EditError: the model has fewer batches.
        """

    def first_batches(self, part: EditsPart, batch: int, where: str) -> EditsPart:
        """Return the part with its first ``batch`` batches only.

        Args:
            part: the edits.
            batch: how many batches to keep.
            where: the file that the part was read from, for messages.

        Raises:
            EditError: the part has fewer batches.
            RunError: the part is incomplete.
        """


# ---------------------------------------------------------------------- explain and inspect edits


@dataclass(frozen=True)
class ExplainedPass:
    """A forward pass of an edited model over one prompt, which is to be explained.

    Attributes:
        prompt: the prompt.
        answer: the teacher-forced text after the prompt; None if there is none.
        texts: the text of each token that the model reads.
        end: index of the prompt's last token.
        texts_at: ``texts_at(module)`` returns the text of each token that a module processes. For a module in the
            decoder of an encoder-decoder model, these differ from ``texts``.
    """

    prompt: str
    answer: str | None
    texts: Sequence[str]
    end: int
    texts_at: Callable[[nn.Module], Sequence[str]]


class LayerExplanation(Protocol):
    """What one edited layer did in a forward pass. Implementations are dataclasses."""

    def lines(self) -> list[str]:
        """Return the explanation as lines of text: the layer, then its tokens."""


Explain = Callable[[Any, ExplainedPass], AbstractContextManager[Callable[[], Sequence[LayerExplanation]]]]
"""``explain(model, explained_pass)`` returns a context manager, inside which the caller makes the forward pass. The
context manager yields a function, which the caller calls after the pass. The function returns an explanation for each
layer that the method edits, or an empty sequence if the model has no edits of the method."""


WatchAnswers = Callable[[Any, Any, "Sequence[EncodedPair]"], Sequence[Callable[[], Hashable]]]
"""``watch_answers(model, tokenizer, questions)`` returns a function for each question, a prompt with an answer, of an
edited causal language model. Called at any later time, also after further edits or removals, the function returns a
value. As long as this value stays the same, so do the model's teacher-forced logits for the question. It costs much
less than a pass of the model."""


NEARLY = 1.25
"""The default largest nearness of pairs that :attr:`InspectedPart.near` lists: two keys nearly collide if their
distance is at most this multiple of the sum of their radii."""


@dataclass(frozen=True)
class InspectedPart:
    """A description of one editor's saved edits, made without a model.

    Attributes:
        method: the method's name.
        layers: paths of the edited layers.
        settings: the hyperparameters that determine which prompts an edit answers.
        edits: one entry for each edit, in order: the request's fields, ``time``, and fields that the method adds.
            CoachHook adds ``batch``. GRACE adds ``decision``, ``key`` (its number), ``replaced_by`` (the number,
            counted from 1, of the last edit with that key, if that is another edit), and fields that describe the key:
            ``radius``, ``hits``, ``neighbour`` (the number of the nearest key), and the ``distance`` and ``nearness``
            of that neighbour; ``further_keys`` is how many further keys the edit has.
        near: one entry for each pair of edits whose keys are near each other, the nearest pair first: ``keys`` and
            ``edits`` (their numbers), ``distance``, ``nearness`` (the distance, divided by the sum of both radii: the
            keys' spheres overlap below 1), ``same_target``.
        batches: one entry for each batch: ``edits`` (how many), and fields that the method adds.
        columns: further columns of the table of edits: from the heading to the name of the entry's field.
        batch_columns: further columns of the table of batches: from the heading to the name of the entry's field, which
            has a number for each layer.
    """

    method: str
    layers: list[str]
    settings: dict[str, Any]
    edits: list[dict[str, Any]]
    near: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)
    batch_columns: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------- merge and export edits


@dataclass(frozen=True)
class MergeSource:
    """One folder of a merge.

    Attributes:
        folder: the name of the folder.
        where: its index file, for messages.
        parts: its parts of one method, in order.
    """

    folder: str
    where: str
    parts: Sequence[EditsPart]


@dataclass(frozen=True)
class Conflict:
    """An edit whose query matched the key of an edit from another folder during a merge.

    Attributes:
        layer: path of the edited layer.
        folder: the folder that the edit is from.
        case_id: the edit's ``case_id`` in the merged folder.
        decision: the codebook's decision: ``split``, ``expand``, ``covered`` or ``supersede``.
        with_folder: the folder that the other edit is from.
        with_case_id: the other edit's ``case_id`` in the merged folder.
        distance: distance from the edit's query to the other edit's key, in units of the distance function.
    """

    layer: str
    folder: str
    case_id: int | str
    decision: str
    with_folder: str
    with_case_id: int | str
    distance: float


@dataclass(frozen=True)
class Renamed:
    """A case that got another ``case_id`` in a merge, because an earlier folder has the same one.

    Attributes:
        folder: the folder that the case is from.
        before: its ``case_id`` in that folder.
        after: its ``case_id`` in the merged folder.
    """

    folder: str
    before: int | str
    after: str


@dataclass(frozen=True)
class MergedEdits:
    """The merged edits of several folders, of one method.

    Attributes:
        parts: the merged edits.
        keys: number of their keys; 0 for methods without keys.
        conflicts: edits that matched a key from another folder.
        renamed: cases that got another ``case_id``.
        duplicates: number of edits that were left out because an earlier folder has them, too.
    """

    parts: list[EditsPart]
    keys: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    renamed: list[Renamed] = field(default_factory=list)
    duplicates: int = 0


@dataclass(frozen=True)
class PlainWeights:
    """The best approximation of an edited model by weights alone, for use without this package.

    Attributes:
        weights: the changed parameters, by name.
        lost: one or two sentences on what the plain weights cannot do; empty if nothing is lost.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    lost: str = ""


# ---------------------------------------------------------------------- the method


@dataclass(frozen=True)
class EditMethod:
    """An editing method and its ports.

    Attributes:
        name: the method's name, as in EasyEdit's ``alg_name``.
        hparams_class: the method's hyperparameter class. Dispatch is on this class, so EasyEdit's own method of the
            same name keeps working for its own hyperparameter class.
        apply: ``apply(model, tok, requests, hparams, copy=, return_orig_weights=,
            keep_original_weight=, **kw) -> (edited_model, rollback)``.
        batchable: whether EasyEdit's ``batch_edit`` may pass several requests in one call.
        further_model_kinds: the kinds of models that the method edits besides causal language models. Methods that
            refuse such a model name this one in their error.
        check: ``check(model, tok, hparams)`` raises a :class:`LifelongError` if the method cannot edit this
            model with these hyperparameters. The loops call it before they start.
        check_requests: ``check_requests(model, tok, hparams, requests)`` raises a :class:`DataError` that names
            the record and the field if the method cannot edit a request. The loops call it before they start.
        prepare: ``prepare(model, tok, hparams, progress)`` computes what the method needs once per model, such as
            second moments, and stores it or keeps it in memory. The loops call it after all checks, before the first
            edit; its time is not counted as editing. ``progress(done, total)``, if not None, is called to show
            progress.
        state: saves and loads the edits of a run, for methods without an appendable edit store.
        edits: saves and loads edits; if it is an :class:`AppendableEditStore`, runs resume from it.
        counts: ``counts(model)`` returns sizes of an edited model's state by name, such as ``n_keys``. They are
            reported with every scoring.
        remove: removes single edits.
        remove_batches: removes the latest batches.
        explain: reports which edits answered a prompt, at which token and layer, and by which margin.
        describe: ``describe(part, where, nearly)`` describes a part of a folder without a model. ``where`` is the file
            that the part was read from, for messages. Pairs of edits with a nearness of at most ``nearly`` are in
            :attr:`InspectedPart.near`. Without this port, ``inspect`` lists the requests.
        merge: ``merge(sources)`` merges folders made on the same model, or raises a :class:`RunError`.
        plain_weights: ``plain_weights(model)`` returns the edits as ordinary weights.
        reasons: for ports that the method lacks, by the name of the port: a sentence that says why, for the error
            message.
        report_sections: ``report_sections(run)`` returns the sections that the method adds to the reports of its
            runs.
        calibrate: chooses hyperparameters for one model; see :mod:`easyedit_lifelong.methods.calibrator`.
        search_space: which hyperparameters a staged search chooses for one model, and among which values; see
            :mod:`easyedit_lifelong.methods.search_space`.
        train: trains the method for one model before it can edit; see :mod:`easyedit_lifelong.methods.trained_editor`.
        edits_by_row: whether the edits act through attachments alone (:mod:`easyedit_lifelong.models.attachment`), and
            on each row of a batch independently of the other rows. Then a server answers requests of several versions
            in one batch; see :mod:`easyedit_lifelong.models.edits_by_row`.
        watch_answers: tells whether answers can have changed since an earlier time, so that a server need not ask the
            model again.
        study_scope: ``study_scope(model, tok, requests)`` returns where in the requests' prompts and paraphrases the
            edits of an edited model act.
    """

    name: str
    hparams_class: type
    apply: Callable[..., tuple[Any, Any]]
    batchable: bool = False
    further_model_kinds: Collection[ModelKind] = ()
    check: Callable[[Any, Any, Any], None] | None = None
    check_requests: Callable[[Any, Any, Any, Sequence[EditRequest]], None] | None = None
    prepare: Callable[[Any, Any, Any, Callable[[int, int], None] | None], object] | None = None
    state: StateKeeper | None = None
    edits: EditStore | None = None
    counts: Callable[[Any], Mapping[str, float]] | None = None
    remove: CaseRemoval | None = None
    remove_batches: BatchRemoval | None = None
    explain: Explain | None = None
    describe: Callable[[EditsPart, str, float], InspectedPart] | None = None
    merge: Callable[[Sequence[MergeSource]], MergedEdits] | None = None
    plain_weights: Callable[[Any], PlainWeights] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict, hash=False)
    report_sections: Callable[[RunRecord], Sequence[ReportSection]] | None = None
    calibrate: Calibrator | None = None
    search_space: SearchSpace | None = None
    train: TrainedEditor | None = None
    edits_by_row: bool = False
    watch_answers: WatchAnswers | None = None
    study_scope: Callable[[Any, Any, Sequence[EditRequest]], ScopeStudy] | None = None
