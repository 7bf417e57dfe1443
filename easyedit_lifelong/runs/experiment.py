"""All settings of a run: the loops, the data, and :class:`Experiment`, which every way of starting a run makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.data import samples
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.runs.schedule import Schedule

LIFELONG, CONSECUTIVE = "lifelong", "consecutive"
"""The two loops."""

EVAL_EVERY = {LIFELONG: 50, CONSECUTIVE: 20}
"""Steps between scorings by default, as in the papers' experiments: edits, or batches."""

PROTOCOLS = ("consecutive", "single-round")

SAMPLES = {"counterfact": samples.COUNTERFACT, "zsre": samples.ZSRE}
"""The sample data that come with the package: by name, where they are (the name is the format, too)."""


@dataclass(frozen=True)
class Data:
    """Which data a run reads.

    Attributes:
        path: a file, or ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.
        format: one of the registered formats; None to recognise it by the file.
        edits: only the first so many records.
        edit_with: how many rephrasings of each fact become separate edits; the others are held out.
        sha256: what the file's SHA-256 must be.
    """

    path: str
    format: str | None = None
    edits: int | None = None
    edit_with: int = 0
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a run's data came from, in the form of an experiment file.

    Attributes:
        data: the section ``data``.
        retention: the section ``retention``: a file, an empty list for none, or None for the sample data's.
        text: the section ``text``: a file, or None.
    """

    data: Mapping[str, Any]
    retention: str | list[Any] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The data of a run, in memory.

    Attributes:
        requests: the requests.
        retention: held-out facts; None for the sample data's.
        text: a held-out text whose perplexity is measured.
        name: the name of the data in the results.
        task: the task of the data's format; None if it is not known.
        source: where the data came from; None if a program made them.
    """

    requests: list[EditRequest]
    retention: Sequence[Probe] | None = None
    text: str | None = None
    name: str = ""
    task: str | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Experiment:
    """All settings of a run.

    Attributes:
        loop: ``lifelong`` or ``consecutive``.
        hparams: hyperparameters: by name, the name of a file, or an object.
        data: which data to read, or the data in memory.
        overrides: values that replace hyperparameters, by name.
        retention: file of held-out facts; None for the sample data's, ``()`` for none.
        text: file of a held-out text.
        task: the task of the data; None for the task of their format.
        only_errors: edit only where the model is wrong (lifelong loop).
        skip_unusable: leave out records that cannot be edited (consecutive loop).
        batch_size: edits per batch (consecutive loop); None for the hyperparameters'.
        protocol: ``consecutive`` or ``single-round`` (consecutive loop).
        schedule: when past edits are scored; with neither ``every`` nor ``at``, the loop's default.
        trackers: names of the trackers to report to.
        source: the file that it was read from, for messages; empty for a command line or a program.
    """

    loop: str
    hparams: Any
    data: Data | Inputs
    overrides: Mapping[str, Any] = field(default_factory=dict)
    retention: str | tuple[()] | None = None
    text: str | None = None
    task: str | None = None
    only_errors: bool = False
    skip_unusable: bool = False
    batch_size: int | None = None
    protocol: str = PROTOCOLS[0]
    schedule: Schedule = field(default_factory=Schedule)
    trackers: Sequence[str] = ()
    source: str = ""

    def setting(self, key: str, option: str) -> str:
        """Return a setting's name where it was given: the file and its key, or the command's option."""
        return f"{self.source}, {key}" if self.source else option
