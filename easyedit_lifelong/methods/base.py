"""The ports: what an editing method can implement, and what it exchanges with the rest of the package.

:class:`EditMethod` needs a name, a hyperparameter class and an apply function. Every other field is optional. The
loops, ``edits/``, the commands and the report ask these ports and know no method by name; see docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from easyedit_lifelong.methods.calibrator import Calibrator
from easyedit_lifelong.methods.edit_stores import EditsPart, EditStore, StateKeeper
from easyedit_lifelong.methods.report_sections import ReportSection, RunRecord

if TYPE_CHECKING:
    from torch import Tensor, nn

    from easyedit_lifelong.data.request import EditRequest
    from easyedit_lifelong.evaluation.scope import Scope
    from easyedit_lifelong.methods.shared.records import EditRecord


# ---------------------------------------------------------------------- take edits out


class CaseRemoval(Protocol):
    """Takes single edits out, on a model or in a folder without one. ``rollback_case``, ``rollback --case``."""

    def records(self, model: Any) -> list[EditRecord]:
        """Return the records of the edits that a model carries, of all editors, in order."""

    def remove(self, model: Any, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Take edits off a model, as if they had never been made; all others stay.

        Args:
            model: the edited model.
            records: of the edits: objects that :meth:`records` returned.
            check_only: only check whether it can be done.

        Raises:
            EditError: it cannot be done; then nothing is changed.
        """

    def remove_from(self, part: EditsPart, numbers: Collection[int], where: str) -> EditsPart:
        """Return a part without some of its edits.

        Args:
            part: the edits.
            numbers: which of them to leave out, counted from 0.
            where: the file that they come from, for messages.

        Raises:
            EditError: it cannot be done.
            RunError: the part is incomplete.
        """


class BatchRemoval(Protocol):
    """Takes later batches out, on a model or in a folder. ``rollback_to_batch``, ``rollback --to-batch``."""

    def back_to(self, model: Any, batch: int) -> None:
        """Make a model bitwise what it was after so many batches.

        Raises:
            EditError: it does not carry as many.
        """

    def first_batches(self, part: EditsPart, batch: int, where: str) -> EditsPart:
        """Return a part's first ``batch`` batches.

        Raises:
            EditError: it does not hold as many.
            RunError: the part is incomplete.
        """


# ---------------------------------------------------------------------- look at edits


@dataclass(frozen=True)
class ExplainedPass:
    """A pass of an edited model over one prompt that is to be explained.

    Attributes:
        prompt: the prompt.
        answer: the text after it, teacher-forced; None for none.
        texts: the text of each token that the model reads.
        end: index of the prompt's last token.
        texts_at: returns the texts of the tokens that reach a module: an encoder-decoder's decoder reads others.
    """

    prompt: str
    answer: str | None
    texts: Sequence[str]
    end: int
    texts_at: Callable[[nn.Module], Sequence[str]]


class LayerExplanation(Protocol):
    """What one edited layer decided in a pass: a dataclass."""

    def lines(self) -> list[str]:
        """Return it as lines of text: the layer, then its tokens."""


Explain = Callable[[Any, ExplainedPass], AbstractContextManager[Callable[[], Sequence[LayerExplanation]]]]
"""``explain(model, explained_pass)``: a context in which the pass is made. The function that it yields is called after
the pass and returns what each of the method's layers decided; nothing if the model carries no edits of the method."""


@dataclass(frozen=True)
class InspectedPart:
    """What one editor's saved edits are, without a model.

    Attributes:
        method: the method's name.
        layers: paths of what is edited.
        settings: the hyperparameters that decide what an edit answers.
        edits: one entry for each, in order: the request's fields, ``time``, and what the method adds. GRACE adds
            ``decision``, ``key``, ``replaced_by`` (number of the later edit that has this edit's key now, counted
            from 1), and of the key ``radius``, ``hits``, ``neighbour``, ``distance``, ``nearness``. CoachHook adds
            ``batch``.
        near: pairs of edits that collide or nearly do, the nearest first: ``keys``, ``edits`` (their numbers),
            ``distance``, ``nearness``, ``same_target``.
        batches: of each batch, ``edits`` (how many) and what the method adds.
        columns: what a table shows of each edit beside its request: the heading, and the entry's name.
        batch_columns: what a table shows of each batch beside the number of edits: the heading, and the name of the
            entry, which holds a number for each layer.
    """

    method: str
    layers: list[str]
    settings: dict[str, Any]
    edits: list[dict[str, Any]]
    near: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)
    batch_columns: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------- join and export edits


@dataclass(frozen=True)
class MergeSource:
    """One folder of a merge: its name, its index for messages, and its parts of one method, in order."""

    folder: str
    where: str
    parts: Sequence[EditsPart]


@dataclass(frozen=True)
class Conflict:
    """An edit that met another folder's.

    Attributes:
        layer: path of the edited layer.
        folder: where the edit is from.
        case_id: its case, as the merged folder calls it.
        decision: what it did: ``split``, ``expand``, ``covered`` or ``supersede``.
        with_folder: where the edit that it met is from.
        with_case_id: that one's case, as the merged folder calls it.
        distance: from its query to that one's key, in units of the distance function.
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
    """A case whose id another folder's had: where it is from, its id there, and its id now."""

    folder: str
    before: int | str
    after: str


@dataclass(frozen=True)
class MergedEdits:
    """Folders' edits of one method, joined.

    Attributes:
        parts: the joined edits.
        keys: how many keys they hold, for methods that have keys.
        conflicts: edits that met another folder's.
        renamed: cases whose ids collided.
        duplicates: how many edits were in an earlier folder already, and are in once.
    """

    parts: list[EditsPart]
    keys: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    renamed: list[Renamed] = field(default_factory=list)
    duplicates: int = 0


@dataclass(frozen=True)
class PlainWeights:
    """What a model without this package needs to come as close as it can to an edited one.

    Attributes:
        weights: the changed parameters, by name.
        lost: what that model cannot do, in a sentence or two; empty if nothing is lost.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    lost: str = ""


# ---------------------------------------------------------------------- the method


@dataclass(frozen=True)
class EditMethod:
    """An editing method, as ``BaseEditor`` and the loops use it.

    Attributes:
        name: EasyEdit's ``alg_name``.
        hparams_class: the method's hyperparameter class. Dispatch is on this type, so a method of
            the same name that comes with EasyEdit keeps working for its own class.
        apply: ``apply(model, tok, requests, hparams, copy=, return_orig_weights=,
            keep_original_weight=, **kw) -> (edited_model, rollback)``.
        batchable: whether EasyEdit's ``batch_edit`` may hand it several requests at once.
        check: ``check(model, tok, hparams)`` raises a :class:`LifelongError` if the method cannot edit this
            model with these hyperparameters; the loops call it before they start anything.
        check_requests: ``check_requests(model, tok, hparams, requests)`` raises a :class:`DataError` that names
            the record and the field if the method cannot edit one of them; called as early.
        prepare: ``prepare(model, tok, hparams, progress)`` computes what is needed once per model, before its
            first edit, and stores it where the method finds it; the loops call it once everything is checked,
            and ``progress(done, total)``, if given, is called as it proceeds. Its time is not counted as editing.
        state: saves and loads the edits of a run, for methods whose edit store is not appendable.
        edits: the method's edits as data: saved, loaded and, if the store is appendable, resumed.
        counts: ``counts(model)`` returns how many of what the method keeps in an edited model, by name
            (``n_keys``); it is reported with every scoring.
        remove: takes single edits out.
        remove_batches: takes later batches out.
        explain: says which edits answered a prompt, where and why.
        describe: ``describe(part, where, nearly)`` returns what a folder's part holds, without a model; two edits
            are near each other up to a nearness of ``nearly``. Without it, ``inspect`` lists the requests.
        merge: ``merge(sources)`` joins folders made on the same model, or raises a :class:`RunError`.
        plain_weights: ``plain_weights(model)`` returns the edits as ordinary weights.
        reasons: why the method lacks a port, by the port's name: sentences for the error that a user gets.
        report_sections: ``report_sections(run)`` returns the sections that the method adds to the report of a run of
            its own.
        calibrate: chooses hyperparameters for one model; see :mod:`easyedit_lifelong.methods.calibrator`.
        study_scope: ``study_scope(model, tok, requests)`` returns where the edits of an edited model act in the
            requests' prompts and paraphrases.
    """

    name: str
    hparams_class: type
    apply: Callable[..., tuple[Any, Any]]
    batchable: bool = False
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
    study_scope: Callable[[Any, Any, Sequence[EditRequest]], Scope] | None = None
