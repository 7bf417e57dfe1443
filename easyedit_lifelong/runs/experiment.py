"""All settings of a run: the loops, the data, and :class:`Experiment`.

The command line, experiment files and :mod:`easyedit_lifelong.runs.api` all make an :class:`Experiment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from easyedit_lifelong.data import samples
from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.runs.schedule import Schedule

if TYPE_CHECKING:
    from easyedit_lifelong.evaluation.chat_requests import ChatSettings
    from easyedit_lifelong.evaluation.harness import HarnessTasks

LIFELONG, CONSECUTIVE = "lifelong", "consecutive"
"""The two loops."""

EVAL_EVERY = {LIFELONG: 50, CONSECUTIVE: 20}
"""The default number of steps between scorings, as in the papers' experiments: edits in the lifelong loop, batches in
the consecutive loop."""

KEEP_EDITS, SINGLE_ROUND = PROTOCOLS = "consecutive", "single-round"
"""The two protocols of the consecutive loop: the model keeps the edits of all batches; or each batch is rolled back
after its scoring. The lifelong loop always keeps the edits."""

SAMPLES = {"counterfact": samples.COUNTERFACT, "zsre": samples.ZSRE}
"""The files of the sample data that are shipped with this package, by name. The name is also the format's name."""


@dataclass(frozen=True)
class Data:
    """The data that a run reads.

    Attributes:
        path: a file, or ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.
        format: name of a registered format; None to recognise the format by the file's content.
        edits: use only this many records; None for all.
        edit_with: how many rephrasings of each fact become separate edits; the others are held out.
        sha256: the SHA-256 that the file must have; None to accept any.
        offset: the number of records to skip at the beginning of the data.
        shuffle: whether the seed draws the records that are used, from all that follow, and their order.
    """

    path: str
    format: str | None = None
    edits: int | None = None
    edit_with: int = 0
    sha256: str | None = None
    offset: int = 0
    shuffle: bool = False


@dataclass(frozen=True)
class Source:
    """Where a run's data came from, as values of an experiment file, which ``config.yaml`` repeats.

    Attributes:
        data: the value of ``data``.
        retention: the value of ``retention``: a file, an empty list for none, or None for the sample data's.
        text: the value of ``text``: a file, or None.
        capability: the value of ``capability``: a file, True for the set of this package, or None.
    """

    data: Mapping[str, Any]
    retention: str | list[Any] | None = None
    text: str | None = None
    capability: str | bool | None = None


@dataclass(frozen=True)
class Inputs:
    """The data of a run, in memory.

    Attributes:
        requests: the requests.
        retention: held-out facts; None for the sample data's.
        text: a held-out text whose perplexity is measured.
        capability: multiple-choice questions.
        name: the name of the data in the results.
        task: the task of the data's format; None if it is not known.
        source: the files that the data came from; None if a program passed them in memory.
        unusable: why each of the data's other records, which were skipped, can't be used.
        notes: what else was noticed while the data were read, such as misspelt fields.
        generated_retention: how many held-out facts are answered with generated text, too; None for as many as there
            are requests.
    """

    requests: list[EditRequest]
    retention: Sequence[Probe] | None = None
    text: str | None = None
    capability: Sequence[MultipleChoiceItem] = ()
    name: str = ""
    task: str | None = None
    source: Source | None = None
    unusable: Sequence[str] = ()
    notes: Sequence[str] = ()
    generated_retention: int | None = None


@dataclass(frozen=True)
class Experiment:
    """All settings of a run.

    Attributes:
        loop: ``lifelong`` or ``consecutive``.
        hparams: hyperparameters: a mapping of names to values, the name or path of a file, or an object.
        data: the data to read, or the data in memory.
        overrides: values that replace hyperparameters, by name.
        retention: file of held-out facts; None for the sample data's, ``()`` for none.
        text: file of a held-out text; None for none.
        capability: file of multiple-choice questions; True for the set of this package, None for none.
        lm_eval: tasks of lm-evaluation-harness; None for none.
        chat: how prompts are asked in a chat; None for prompts as they are.
        judge: the judge of generated answers, ``NAME`` or ``NAME:ARGUMENT``; None for none.
        carry_over: score edits of plain prompts in a chat, too, and those of a chat as plain prompts.
        self_consistency: score what the model writes after its answers.
        task: the task of the data; None for the task of their format.
        only_errors: edit only where the model is wrong (lifelong loop).
        skip_unusable: leave out records that cannot be read or edited.
        batch_size: edits per batch (consecutive loop); None for the hyperparameters'.
        protocol: ``consecutive`` or ``single-round`` (consecutive loop).
        schedule: when past edits are scored; with neither ``every`` nor ``at``, the loop's default.
        trackers: names of the trackers to report to.
        source: the experiment file, for messages; empty if the settings are arguments.
        recorded: what the run that wrote the experiment file recorded, such as digests of its data and weights.
    """

    loop: str
    hparams: Any
    data: Data | Inputs
    overrides: Mapping[str, Any] = field(default_factory=dict)
    retention: str | tuple[()] | None = None
    text: str | None = None
    capability: str | bool | None = None
    lm_eval: HarnessTasks | None = None
    chat: ChatSettings | None = None
    carry_over: bool = False
    self_consistency: bool = False
    judge: str | None = None
    task: str | None = None
    only_errors: bool = False
    skip_unusable: bool = False
    batch_size: int | None = None
    protocol: str = KEEP_EDITS
    schedule: Schedule = field(default_factory=Schedule)
    trackers: Sequence[str] = ()
    source: str = ""
    recorded: Mapping[str, Any] = field(default_factory=dict)

    def setting(self, key: str, option: str) -> str:
        """Return what messages call a setting: the experiment file and its key, or the command-line option."""
        return f"{self.source}, {key}" if self.source else option
