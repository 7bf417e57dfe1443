"""A run's folder, read for a report: whatever is there, of any version, finished or not.

Reports are made of runs that were killed, that are not over, and that older versions wrote. So only the folder itself
has to exist; what cannot be read is left out and noted, never an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.edits.parts import read_step_states
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.methods.report_sections import RunRecord, is_number
from easyedit_lifelong.runs.run_folder import CONFIG, JOURNAL, STATE, SUMMARY
from easyedit_lifelong.runs.run_folder import METRICS as CURVE

GENERATIONS = "generations.jsonl"
_FILES = (CONFIG, JOURNAL, CURVE, SUMMARY)

Entry = dict[str, Any]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        folder: where it lies.
        config: ``config.yaml``; empty if there is none.
        config_text: the same as it is written.
        journal: one entry per request; what the method adds stands beside the rest.
        curve: one entry per scoring, the last one of each number of edits, by number of edits.
        generations: the model's free answers before and after the edits.
        summary: ``summary.json``; empty until the run is finished.
        steps: of each stored step, the records of its edits and the method's state.
        notes: what is missing or could not be read, in sentences.
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
        return mapping(self.setting("hparams"))

    @property
    def method_name(self) -> str:
        """The method's name."""
        return self._text("method") or str(self.hparams.get("alg_name") or "unknown method")

    @property
    def method(self) -> str:
        """The method's name for readers; a run without hook layers says so."""
        return f"{self.method_name} without hooks" if self.hparams.get("wohk") else self.method_name

    @property
    def model(self) -> str:
        """The model's name."""
        return self._text("model") or str(self.hparams.get("model_name") or "unknown model")

    @property
    def data(self) -> str:
        """The data's name, without the folders it lies in."""
        return self._text("data").replace("\\", "/").rstrip("/").rpartition("/")[2]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.summary)

    @property
    def n_edits(self) -> int:
        """How many edits were made."""
        return self._count("n_edits", "edited")

    @property
    def n_failed(self) -> int:
        """How many edits failed."""
        return self._count("n_failed", "failed")

    @property
    def n_skipped(self) -> int:
        """How many requests were left out."""
        return self._count("n_skipped", "skipped")

    @property
    def n_requests(self) -> int | None:
        """How many requests there were, if that is known."""
        number = self.setting("n_requests")
        return number if isinstance(number, int) else None

    @property
    def timing(self) -> dict[str, float]:
        """Seconds by name; of a run that is not finished, those in its journal."""
        if isinstance(self.summary.get("timing"), dict):
            return {name: value for name, value in self.summary["timing"].items() if is_number(value)}
        spent = [entry["seconds"] for entry in self.journal if is_number(entry.get("seconds"))]
        return {"seconds_per_edit": sum(spent) / len(spent), "seconds_editing": sum(spent)} if spent else {}

    @property
    def versions(self) -> Entry:
        """Versions of the packages, by name."""
        return mapping(self.summary.get("versions"))

    def setting(self, name: str) -> Any:
        """Return a setting by its name in the summary or, if it is not there, in the config."""
        for section in (self.summary, self.config, mapping(self.config.get("recorded"))):
            if section.get(name) is not None:
                return section[name]
        return None

    def record(self) -> RunRecord:
        """Return the part of the run that a method's figures can use."""
        return RunRecord(self.method_name, self.config, self.hparams, self.journal, self.curve, self.steps)

    def scores(self) -> dict[str, float]:
        """Return the last scores, with those of the unedited model if they are known."""
        return scores_of(mapping(self.summary.get("metrics") or self._last()), self._kinds())

    def intervals(self) -> dict[str, Interval]:
        """Return the intervals of the last scores."""
        return intervals_of(self.summary if "intervals" in self.summary else self._last())

    def kind(self, name: str) -> str:
        """Return how a score was taken."""
        return METRICS[name].kind if name in METRICS else str(self._kinds().get(name, ""))

    def points(self, name: str) -> list[tuple[int, float, Interval | None]]:
        """Return a score's course: number of edits, score, interval."""
        return [
            (entry["n_edits"], float(entry[name]), intervals_of(entry).get(name))
            for entry in self.curve
            if is_number(entry.get(name))
        ]

    def scored_names(self) -> list[str]:
        """Return the names of the scores that have a course, in their usual order."""
        return in_order(name for entry in self.curve for name in scores_of(entry, self._kinds()))

    def _last(self) -> Entry:
        return self.curve[-1] if self.curve else {}

    def _kinds(self) -> Entry:
        return mapping(self.summary.get("metric_kinds"))

    def _text(self, name: str) -> str:
        value = self.setting(name)
        if isinstance(value, dict):  # an experiment file may say more than a name
            value = next((value[key] for key in ("name", "path", "sample") if isinstance(value.get(key), str)), "")
        return value if isinstance(value, str) else ""

    def _count(self, name: str, status: str) -> int:
        number = self.summary.get(name)
        return number if isinstance(number, int) else sum(entry.get("status") == status for entry in self.journal)


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        RunError: there is no such folder, or it holds no run.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise RunError(f"{folder}: {'is a file, not the folder of a run' if folder.exists() else 'no such folder'}")
    if not any((folder / name).is_file() for name in _FILES):
        inside = sorted(path.parent for name in _FILES[:2] for path in folder.glob(f"*/{name}"))
        hint = f" Did you mean {' '.join(map(str, dict.fromkeys(inside)))}?" if inside else ""
        raise RunError(f"{folder}: holds no run (none of {', '.join(_FILES)}).{hint}")
    notes: list[str] = []
    config_text = _text_of(folder / CONFIG, notes)
    summary_text = _text_of(folder / SUMMARY, notes) if (folder / SUMMARY).is_file() else "{}"
    run = Run(
        folder,
        _parsed(config_text, yaml.safe_load, f"{CONFIG} isn't valid YAML.", notes),
        config_text,
        [_flat(entry) for entry in _lines(folder / JOURNAL, notes)],
        _curve(_lines(folder / CURVE, notes)),
        _lines(folder / GENERATIONS, []),
        _parsed(summary_text, json.loads, f"{SUMMARY} isn't valid JSON.", notes),
        _state_steps(folder / STATE, notes),
        notes,
    )
    if not run.finished:
        of = f" of {run.n_requests}" if run.n_requests is not None else ""
        notes.insert(0, f"This run isn't finished, or was cut short: its journal has {len(run.journal)}{of} requests.")
    return run


def mapping(value: Any) -> Entry:
    """Return a value if it is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of scores, each once: those of :data:`METRICS` in its order, then others as they come."""
    once = dict.fromkeys(names)
    return [*(name for name in METRICS if name in once), *(name for name in once if name not in METRICS)]


def scores_of(entry: Mapping[str, Any], also: Mapping[str, Any]) -> dict[str, float]:
    """Return an entry's scores: what :data:`METRICS` or ``also`` knows by name."""
    return {name: float(x) for name, x in entry.items() if (name in METRICS or name in also) and is_number(x)}


def intervals_of(entry: Mapping[str, Any]) -> dict[str, Interval]:
    """Return an entry's intervals by score; what is no interval is left out."""
    return {
        name: (float(pair[0]), float(pair[1]))
        for name, pair in mapping(entry.get("intervals")).items()
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_number, pair))
    }


def _text_of(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"There is no {path.name}.")
    except OSError as error:
        notes.append(f"{path.name} can't be read: {error.strerror}.")
    return ""


def _parsed(text: str, parse: Callable[[str], Any], note: str, notes: list[str]) -> Entry:
    try:
        return mapping(parse(text))
    except (ValueError, yaml.YAMLError):
        notes.append(note)
        return {}


def _lines(path: Path, notes: list[str]) -> list[Entry]:
    """Return a file's lines; the last may be torn, and one that isn't JSON is left out."""
    entries, broken = [], []
    for number, line in enumerate(_text_of(path, notes).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            entries.append(entry)
        else:
            broken.append(number)
    if broken:
        many = f"line {broken[0]}" if len(broken) == 1 else f"{len(broken)} lines, the first of them line {broken[0]},"
        notes.append(f"{path.name}: {many} can't be read and {'is' if len(broken) == 1 else 'are'} left out.")
    return entries


def _flat(entry: Entry) -> Entry:
    """Put what a method adds beside the rest; the first version kept it apart."""
    return {**mapping(entry.get("detail")), **{key: value for key, value in entry.items() if key != "detail"}}


def _curve(entries: list[Entry]) -> list[Entry]:
    # A run that was resumed may have scored twice at one point; the later line counts.
    by_edits = {entry["n_edits"]: entry for entry in entries if isinstance(entry.get("n_edits"), int)}
    return [by_edits[n] for n in sorted(by_edits)]


def _state_steps(state: Path, notes: list[str]) -> list[tuple[list[Entry], Entry]]:
    """Return the steps in a run's state folder: of each, the records of its edits and the method's state."""
    found: list[tuple[list[Entry], Entry]] = []
    for folder in (state, *sorted(path for path in state.glob("*") if path.is_dir())):
        try:
            steps = read_step_states(folder)
        except LifelongError as error:
            notes.append(
                f"The edits in {STATE}/ can't be read, and what the report takes from them isn't shown: {error}"
            )
        else:
            found = steps if len(steps) >= len(found) else found
    return found
