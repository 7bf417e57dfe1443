"""A run's folder, read for a report: whatever is there, of any version, finished or not.

A report is made of runs that were killed, that still go on, and that older versions wrote. So nothing
but the folder itself has to be there; what can't be read is left out and noted, never an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.runs.run_folder import CONFIG, JOURNAL, STATE, SUMMARY
from easyedit_lifelong.runs.run_folder import METRICS as CURVE

GENERATIONS = "generations.jsonl"
_FILES = (CONFIG, JOURNAL, CURVE, SUMMARY)
_ALPHAS = "coachhook.json"

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
        generations: what the model said before and after.
        summary: ``summary.json``; empty as long as the run isn't finished.
        alphas: CoachHook's α by hook layer after each batch, with the batch's case ids.
        notes: what is missing or couldn't be read, in sentences.
    """

    folder: Path
    config: Entry = field(default_factory=dict)
    config_text: str = ""
    journal: list[Entry] = field(default_factory=list)
    curve: list[Entry] = field(default_factory=list)
    generations: list[Entry] = field(default_factory=list)
    summary: Entry = field(default_factory=dict)
    alphas: list[tuple[list[Any], dict[str, float]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def hparams(self) -> Entry:
        """The method's hyperparameters."""
        found = self.asked("hparams")
        return found if isinstance(found, dict) else {}

    @property
    def method(self) -> str:
        """The method's name; one without its hook layers says so."""
        name = self._text("method") or str(self.hparams.get("alg_name") or "unknown method")
        return f"{name} without hooks" if self.hparams.get("wohk") else name

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
        number = self.asked("n_requests")
        return number if isinstance(number, int) else None

    @property
    def timing(self) -> dict[str, float]:
        """Seconds by name; of a run that isn't finished, what its journal tells."""
        if isinstance(self.summary.get("timing"), dict):
            return {name: value for name, value in self.summary["timing"].items() if is_number(value)}
        spent = [entry["seconds"] for entry in self.journal if is_number(entry.get("seconds"))]
        return {"seconds_per_edit": sum(spent) / len(spent), "seconds_editing": sum(spent)} if spent else {}

    def asked(self, name: str) -> Any:
        """Return what the run was asked, by its name in the summary or, as far as there is none, in the config."""
        recorded = self.config.get("recorded")
        for section in (self.summary, self.config, recorded if isinstance(recorded, dict) else {}):
            if section.get(name) is not None:
                return section[name]
        return None

    def scores(self) -> dict[str, float]:
        """Return the last scores, with those of the unedited model if they are known."""
        scored = self.summary.get("metrics") or (self.curve[-1] if self.curve else {})
        return scores_of(scored, self._kinds()) if isinstance(scored, dict) else {}

    def intervals(self) -> dict[str, Interval]:
        """Return the intervals of the last scores."""
        return intervals_of(self.summary if "intervals" in self.summary else (self.curve[-1] if self.curve else {}))

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
        names = dict.fromkeys(name for entry in self.curve for name in scores_of(entry, self._kinds()))
        return [*(name for name in METRICS if name in names), *(name for name in names if name not in METRICS)]

    def _kinds(self) -> Mapping[str, Any]:
        kinds = self.summary.get("metric_kinds")
        return kinds if isinstance(kinds, dict) else {}

    def _text(self, name: str) -> str:
        value = self.asked(name)
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
    run = Run(
        folder, _yaml(config_text, notes), config_text,
        [_flat(entry) for entry in _lines(folder / JOURNAL, notes)],
        _curve(_lines(folder / CURVE, notes)), _lines(folder / GENERATIONS, []),
        _summary(folder / SUMMARY, notes), _alphas(folder / STATE, notes), notes,
    )  # fmt: skip
    if not run.finished:
        of = f" of {run.n_requests}" if run.n_requests is not None else ""
        notes.insert(0, f"This run isn't finished, or was cut short: its journal has {len(run.journal)}{of} requests.")
    return run


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def scores_of(entry: Mapping[str, Any], also: Mapping[str, Any]) -> dict[str, float]:
    """Return an entry's scores: what :data:`METRICS` or ``also`` knows by name."""
    return {name: float(x) for name, x in entry.items() if (name in METRICS or name in also) and is_number(x)}


def intervals_of(entry: Mapping[str, Any]) -> dict[str, Interval]:
    """Return an entry's intervals by score; what isn't one is left out."""
    found = entry.get("intervals")
    if not isinstance(found, dict):
        return {}
    return {
        name: (float(pair[0]), float(pair[1]))
        for name, pair in found.items()
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


def _yaml(text: str, notes: list[str]) -> Entry:
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError:
        notes.append(f"{CONFIG} isn't valid YAML.")
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _lines(path: Path, notes: list[str]) -> list[Entry]:
    """Return a file's lines; the last may be torn, and one that isn't JSON is left out."""
    lines = _text_of(path, notes).split("\n")
    entries, broken = [], []
    for number, line in enumerate(lines, 1):
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
    detail = entry.get("detail")
    return {**detail, **{k: v for k, v in entry.items() if k != "detail"}} if isinstance(detail, dict) else entry


def _curve(entries: list[Entry]) -> list[Entry]:
    # A run that was resumed may have scored twice at one point; the later line counts.
    by_edits = {entry["n_edits"]: entry for entry in entries if isinstance(entry.get("n_edits"), int)}
    return [by_edits[n] for n in sorted(by_edits)]


def _summary(path: Path, notes: list[str]) -> Entry:
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(_text_of(path, notes))
    except ValueError:
        notes.append(f"{path.name} isn't valid JSON.")
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _alphas(state: Path, notes: list[str]) -> list[tuple[list[Any], dict[str, float]]]:
    """Return CoachHook's α after each batch, from its latest state."""
    found: list[tuple[list[Any], dict[str, float]]] = []
    for path in sorted(state.glob(f"**/{_ALPHAS}")):
        try:
            batches = json.loads(path.read_text(encoding="utf-8"))["batches"]
            one = [([edit["case_id"] for edit in batch["edits"]], dict(batch["alphas"])) for batch in batches]
        except (OSError, ValueError, KeyError, TypeError):
            notes.append(f"{path.name} in {STATE}/ can't be read; α isn't shown.")
            continue
        if len(one) >= len(found):
            found = [(cases, {path: float(x) for path, x in alphas.items() if is_number(x)}) for cases, alphas in one]
    return found
