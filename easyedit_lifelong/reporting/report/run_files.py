"""The content of a run's folder, finished or not, as a report uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.methods.report_sections import RunRecord, is_number
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report.run_entries import (
    Entry,
    Interval,
    as_mapping,
    intervals_of,
    scores_of,
    sort_names,
)
from easyedit_lifelong.runs.experiment import SINGLE_ROUND


@dataclass(frozen=True)
class RunFiles:
    """The content of a run's folder.

    Attributes:
        folder: the folder.
        config: ``config.yaml``; empty if there is none.
        config_text: the text of that file.
        journal: one entry for each request, including the fields that the method adds.
        curve: one entry for each scoring, sorted by number of edits; of several with the same number, the last.
        generations: the generated answers before and after the edits.
        summary: ``summary.json``; empty until the run is finished.
        steps: for each step of the state folder, the records of its edits and the method's state.
        notes: sentences about files that are missing or couldn't be read.
    """

    folder: Path
    config: Entry = field(default_factory=dict)
    config_text: str = ""
    journal: list[Entry] = field(default_factory=list)
    curve: list[Entry] = field(default_factory=list)
    generations: list[Entry] = field(default_factory=list)
    summary: Entry = field(default_factory=dict)
    steps: list[tuple[list[Entry], Entry]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def hparams(self) -> Entry:
        """The method's hyperparameters."""
        return as_mapping(self.setting("hparams"))

    @property
    def method_name(self) -> str:
        """The method's name."""
        return self._setting_text("method") or str(self.hparams.get("alg_name") or "unknown method")

    @property
    def method(self) -> str:
        """The method's name for titles, with "without hooks" for CoachHook without hook layers."""
        return f"{self.method_name} without hooks" if self.hparams.get("wohk") else self.method_name

    @property
    def model(self) -> str:
        """The model's name."""
        return self._setting_text("model") or str(self.hparams.get("model_name") or "unknown model")

    @property
    def data(self) -> str:
        """The name of the data, without folders."""
        return self._setting_text("data").replace("\\", "/").rstrip("/").rpartition("/")[2]

    @property
    def is_single_round(self) -> bool:
        """Whether each batch was edited alone, and rolled back after its scoring."""
        return bool(self.setting("protocol") == SINGLE_ROUND)

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return bool(self.summary)

    @property
    def n_edits(self) -> int:
        """Number of edits."""
        return self._count("n_edits", "edited")

    @property
    def n_failed(self) -> int:
        """Number of edits that failed."""
        return self._count("n_failed", "failed")

    @property
    def n_skipped(self) -> int:
        """Number of requests that were skipped."""
        return self._count("n_skipped", "skipped")

    @property
    def n_sampled(self) -> int | None:
        """Number of past edits in the last scoring, if it scored a sample of them."""
        sampled = self._last_scoring().get("sampled")
        return sampled if isinstance(sampled, int) else None

    @property
    def n_requests(self) -> int | None:
        """Number of requests, if known."""
        number = self.setting("n_requests")
        return number if isinstance(number, int) else None

    @property
    def timing(self) -> dict[str, float]:
        """Seconds by name; for an unfinished run, computed from its journal."""
        if isinstance(self.summary.get("timing"), dict):
            return {name: value for name, value in self.summary["timing"].items() if is_number(value)}
        seconds = [entry["seconds"] for entry in self.journal if is_number(entry.get("seconds"))]
        return {"seconds_per_edit": sum(seconds) / len(seconds), "seconds_editing": sum(seconds)} if seconds else {}

    @property
    def versions(self) -> Entry:
        """Versions of the packages, by name."""
        return as_mapping(self.summary.get("versions"))

    @property
    def data_notes(self) -> list[str]:
        """Sentences about the run's data, such as records that edit the same prompt."""
        notes = self.summary.get("data_notes")
        return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []

    @property
    def machine(self) -> str:
        """The device and the number of threads, as text; empty if unknown."""
        machine = as_mapping(self.summary.get("machine"))
        device, threads = machine.get("name") or machine.get("device"), machine.get("threads")
        threads_text = counted(threads, "thread") if isinstance(threads, int) else ""
        return ", ".join(filter(None, (str(device or ""), threads_text)))

    def setting(self, name: str) -> Any:
        """Return a setting of the summary, else of the configuration; None if neither has it."""
        for section in (self.summary, self.config, as_mapping(self.config.get("recorded"))):
            if section.get(name) is not None:
                return section[name]
        return None

    def record(self) -> RunRecord:
        """Return the parts of the run that a method's report sections use."""
        return RunRecord(self.method_name, self.config, self.hparams, self.journal, self.curve, self.steps)

    def scores(self) -> dict[str, float]:
        """Return the last scores, including those of the unedited model if known."""
        return scores_of(as_mapping(self.summary.get("metrics") or self._last_scoring()), self._extra_kinds())

    def intervals(self) -> dict[str, Interval]:
        """Return the intervals of the last scores."""
        return intervals_of(self.summary if "intervals" in self.summary else self._last_scoring())

    def kind(self, name: str) -> str:
        """Return the kind of a score: how it is measured."""
        return METRICS[name].kind if name in METRICS else str(self._extra_kinds().get(name, ""))

    def points(self, name: str) -> list[tuple[int, float, Interval | None]]:
        """Return the points of a score's curve: number of edits, score, interval."""
        return [
            (entry["n_edits"], float(entry[name]), intervals_of(entry).get(name))
            for entry in self.curve
            if is_number(entry.get(name))
        ]

    def scored_names(self) -> list[str]:
        """Return the names of all scores that have a curve, in the order of :data:`METRICS`."""
        return sort_names(name for entry in self.curve for name in scores_of(entry, self._extra_kinds()))

    def _last_scoring(self) -> Entry:
        return self.curve[-1] if self.curve else {}

    def _extra_kinds(self) -> Entry:
        """Return the kinds of scores that are not in :data:`METRICS`, by name."""
        return as_mapping(self.summary.get("metric_kinds"))

    def _setting_text(self, name: str) -> str:
        """Return a setting that is a name, as text; empty if there is none."""
        value = self.setting(name)
        if isinstance(value, dict):  # in an experiment file, the data are a mapping
            value = next((value[key] for key in ("name", "path", "sample") if isinstance(value.get(key), str)), "")
        return value if isinstance(value, str) else ""

    def _count(self, name: str, status: str) -> int:
        """Return a number of the summary, else the number of requests in the journal with a status."""
        number = self.summary.get(name)
        return number if isinstance(number, int) else sum(entry.get("status") == status for entry in self.journal)
