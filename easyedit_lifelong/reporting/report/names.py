"""Short, distinct names for runs, and the settings in which runs differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from easyedit_lifelong.reporting.report.generations import printable
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.trackers.flat import flatten

_NO_SETTINGS = ("schema_version", "started", "recorded.started")


def run_names(runs: Sequence[RunFiles]) -> list[str]:
    """Return a distinct name for each run: its method and, if needed, its model and folder."""
    several_models = len({run.model for run in runs}) > 1
    names, *longer_names = zip(*(_candidates(run, several_models) for run in runs), strict=True)
    for longer in longer_names:
        counts = Counter(names)
        names = tuple(long if counts[name] > 1 else name for name, long in zip(names, longer, strict=True))
    counts_so_far: Counter[str] = Counter()
    numbered = []
    for name in map(printable, names):
        counts_so_far[name] += 1  # only the same folder given twice still has equal names
        numbered.append(name if counts_so_far[name] == 1 else f"{name} ({counts_so_far[name]})")
    return numbered


def _candidates(run: RunFiles, with_model: bool) -> list[str]:
    """Return possible names for a run, from the shortest to the most exact."""
    model, folder = run.model.rstrip("/").rpartition("/")[2] if with_model else "", run.folder.resolve()
    details = ((model,), (model, folder.name), ("/".join(folder.parts[-2:]),), (str(folder),))
    return [" · ".join(filter(None, (run.method, *detail))) for detail in details]


def settings_as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings as text, under dotted names."""
    return {name: "" if value is None else str(value) for name, value in flatten(values).items()}


def differing_settings(runs: Sequence[RunFiles]) -> dict[str, list[str]]:
    """Return the settings that differ between runs, with the value of each run; a dash if a run lacks the setting."""
    settings = [settings_as_text(run.config) for run in runs]
    names = dict.fromkeys(name for of_run in settings for name in of_run if name not in _NO_SETTINGS)
    rows = {name: [of_run.get(name, "-") for of_run in settings] for name in names}
    return {name: row for name, row in rows.items() if len(set(row)) > 1}
