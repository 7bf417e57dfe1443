"""The ports: what an editing method can implement.

:class:`EditMethod` needs a name, a hyperparameter class and an apply function. Every other field is optional. The
loops, ``edits/``, the commands and the report call these ports and know no method by name; see docs/plugins.md. The
modules beside this one have the types of the ports; the names in :data:`__all__` can be imported from here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from easyedit_lifelong.methods.calibrator import Calibrator
from easyedit_lifelong.methods.edit_stores import EditsPart, EditStore, StateKeeper
from easyedit_lifelong.methods.inspection import NEARLY, Explain, ExplainedPass, InspectedPart, LayerExplanation
from easyedit_lifelong.methods.merging import Conflict, MergedEdits, MergeSource, Renamed
from easyedit_lifelong.methods.removal import BatchRemoval, CaseRemoval
from easyedit_lifelong.methods.report_sections import ReportSection, RunRecord
from easyedit_lifelong.methods.search_space import SearchSpace
from easyedit_lifelong.methods.trained_editor import TrainedEditor

if TYPE_CHECKING:
    from torch import Tensor

    from easyedit_lifelong.data.request import EditRequest
    from easyedit_lifelong.evaluation.scope import ScopeStudy
    from easyedit_lifelong.models.encoding import EncodedPair
    from easyedit_lifelong.models.model_kinds import ModelKind

__all__ = [
    "NEARLY",
    "BatchRemoval",
    "CaseRemoval",
    "Conflict",
    "EditMethod",
    "Explain",
    "ExplainedPass",
    "InspectedPart",
    "LayerExplanation",
    "MergeSource",
    "MergedEdits",
    "PlainWeights",
    "Renamed",
    "WatchAnswers",
]

WatchAnswers = Callable[[Any, Any, "Sequence[EncodedPair]"], Sequence[Callable[[], Hashable]]]
"""``watch_answers(model, tokenizer, questions)`` returns a function for each question, a prompt with an answer, of an
edited causal language model. Called at any later time, also after further edits or removals, the function returns a
value. As long as this value stays the same, so do the model's teacher-forced logits for the question. It costs much
less than a pass of the model."""


@dataclass(frozen=True)
class PlainWeights:
    """The best approximation of an edited model by weights alone, for use without this package.

    Attributes:
        weights: the changed parameters, by name.
        lost: one or two sentences on what the plain weights cannot do; empty if nothing is lost.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    lost: str = ""


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
            on each row of a batch independently of the other rows, unless the hyperparameters say
            ``writes_weights``. Then a server answers requests of several versions in one batch, which requests join and
            leave. An editor gets the rows of one version, or one row, as if they were the batch; see
            :mod:`easyedit_lifelong.models.edits_by_row`.
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
