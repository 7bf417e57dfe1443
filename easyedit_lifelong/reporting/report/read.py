"""Read the folder of a run for a report.

The run can be unfinished, killed, or written by an older version. So only the folder must exist: a file that is missing
or can't be read adds a note to the report and is not an error.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.step_states import read_step_states
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.methods.report_sections import RunRecord, is_number
from easyedit_lifelong.parsing import parse_json, parse_yaml
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.runs.run_folder import CONFIG, GENERATIONS, JOURNAL, STATE, SUMMARY
from easyedit_lifelong.runs.run_folder import METRICS_FILE as CURVE

_FILES = (CONFIG, JOURNAL, CURVE, SUMMARY)

Entry = dict[str, Any]
Interval = tuple[float, float]


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


def read_run(folder: Path) -> RunFiles:
    """Read the folder of a run.

    Raises:
        RunError: the folder doesn't exist, or holds no run.
    """
    folder = expanded_path(folder, RunError)
    if not folder.is_dir():
        raise RunError(f"{folder}: {'is a file, not the folder of a run' if folder.exists() else 'no such folder'}")
    if not any((folder / name).is_file() for name in _FILES):
        subfolders = sorted(path.parent for name in _FILES[:2] for path in folder.glob(f"*/{name}"))
        hint = f" Did you mean {' '.join(map(str, dict.fromkeys(subfolders)))}?" if subfolders else ""
        raise RunError(f"{folder}: holds no run (none of {', '.join(_FILES)}).{hint}")
    notes: list[str] = []
    config_text = _read_text(folder / CONFIG, notes)
    summary_text = _read_text(folder / SUMMARY, notes) if (folder / SUMMARY).is_file() else "{}"
    run = RunFiles(
        folder,
        config=_parse(config_text, parse_yaml, f"{CONFIG} isn't valid YAML.", notes),
        config_text=config_text,
        journal=[_merge_detail(entry) for entry in _read_lines(folder / JOURNAL, notes)],
        curve=_last_scorings(_read_lines(folder / CURVE, notes)),
        generations=_read_lines(folder / GENERATIONS, []),
        summary=_parse(summary_text, parse_json, f"{SUMMARY} isn't valid JSON.", notes),
        steps=_read_state_steps(folder / STATE, notes),
        notes=notes,
    )
    if not run.finished:
        done, total = len(run.journal), run.n_requests
        text = counted(done, "request") if total is None else f"{done} of {counted(total, 'request')}"
        notes.insert(0, f"This run isn't finished: its journal has {text}.")
    return run


def as_mapping(value: Any) -> Entry:
    """Return the value if it is a dictionary, else an empty dictionary."""
    return value if isinstance(value, dict) else {}


def sort_names(names: Iterable[str]) -> list[str]:
    """Return distinct names of scores: first those of :data:`METRICS`, in its order, then the others."""
    distinct = dict.fromkeys(names)
    return [*(name for name in METRICS if name in distinct), *(name for name in distinct if name not in METRICS)]


def scores_of(entry: Mapping[str, Any], extra_names: Container[str]) -> dict[str, float]:
    """Return the scores in an entry: the numbers with a name in :data:`METRICS` or ``extra_names``."""
    return {
        name: float(value)
        for name, value in entry.items()
        if (name in METRICS or name in extra_names) and is_number(value)
    }


def intervals_of(entry: Mapping[str, Any]) -> dict[str, Interval]:
    """Return the intervals in an entry by the name of the score; skip values that aren't intervals."""
    return {
        name: (float(pair[0]), float(pair[1]))
        for name, pair in as_mapping(entry.get("intervals")).items()
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_number, pair))
    }


def _read_text(path: Path, notes: list[str]) -> str:
    """Return the text of a file; if it can't be read, add a note and return empty text."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"There is no {path.name}.")
    except OSError as error:
        notes.append(f"{path.name} can't be read: {error.strerror}.")
    return ""


def _parse(text: str, parser: Callable[[str], Any], note: str, notes: list[str]) -> Entry:
    """Return the mapping that a text holds; if it can't be parsed, add a note and return an empty mapping."""
    try:
        return as_mapping(parser(text))
    except ValueError:
        notes.append(note)
        return {}


def _read_lines(path: Path, notes: list[str]) -> list[Entry]:
    """Return the entries of a JSON-lines file. Skip invalid lines, such as an incomplete last one, and add a note."""
    entries, broken = [], []
    for number, line in enumerate(_read_text(path, notes).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            entries.append(entry)
        else:
            broken.append(number)
    if broken:
        lines = f"line {broken[0]}" if len(broken) == 1 else f"{len(broken)} lines, the first of them line {broken[0]},"
        notes.append(f"{path.name}: {lines} can't be read and {'is' if len(broken) == 1 else 'are'} left out.")
    return entries


def _merge_detail(entry: Entry) -> Entry:
    """Return a journal entry with the method's fields at the top level; the first version had them in ``detail``."""
    return {**as_mapping(entry.get("detail")), **{key: value for key, value in entry.items() if key != "detail"}}


def _last_scorings(entries: list[Entry]) -> list[Entry]:
    """Return the last scoring at each number of edits; a resumed run can have two at the same number."""
    numbered = [entry for entry in entries if isinstance(entry.get("n_edits"), int) and is_number(entry["n_edits"])]
    by_edits = {entry["n_edits"]: entry for entry in numbered}
    return [by_edits[n] for n in sorted(by_edits)]


def _read_state_steps(state: Path, notes: list[str]) -> list[tuple[list[Entry], Entry]]:
    """Return, for each step of a run's state folder, the records of its edits and the method's state.

    A subfolder with more steps than the folder itself is read instead.
    """
    steps: list[tuple[list[Entry], Entry]] = []
    for folder in (state, *sorted(path for path in state.glob("*") if path.is_dir())):
        try:
            steps_in_folder = read_step_states(folder)
        except LifelongError as error:
            notes.append(f"The edits in {STATE}/ can't be read, so figures that need them aren't shown: {error}")
        else:
            steps = steps_in_folder if len(steps_in_folder) >= len(steps) else steps
    return steps
