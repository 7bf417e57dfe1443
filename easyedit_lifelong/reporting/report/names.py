"""What each of several runs is called, and in what their settings differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.reporting.report.generations import clean
from easyedit_lifelong.reporting.report.read import Run

_NO_SETTINGS = ("schema_version", "started", "recorded.started")


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a short name for each run: its method, and of model and folder as much as tells it from the others."""
    parts: list[Callable[[Run], str]] = [
        lambda run: run.method,
        lambda run: f"{run.method} · {run.model.rstrip('/').rpartition('/')[2]}",
        lambda run: f"{run.method} · {run.folder.resolve().name}",
        lambda run: f"{run.method} · {run.model.rstrip('/').rpartition('/')[2]} · {run.folder.resolve().name}",
        lambda run: f"{run.method} · {'/'.join(run.folder.resolve().parts[-2:])}",
        lambda run: f"{run.method} · {run.folder.resolve()}",
    ]
    several_models = len({run.model for run in runs}) > 1
    names = [parts[1 if several_models else 0](run) for run in runs]
    for part in parts[3 if several_models else 2 :]:
        counts = Counter(names)
        if max(counts.values()) == 1:
            break
        names = [part(run) if counts[name] > 1 else name for run, name in zip(runs, names, strict=True)]
    seen: Counter[str] = Counter()
    numbered = []
    for name in map(clean, names):
        seen[name] += 1  # the same folder, twice
        numbered.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return numbered


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = "" if value is None else str(value)
    return flat


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings that aren't the same in all runs, with each run's; a dash where a run has none."""
    settings = [flat_settings(run.config) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one if name not in _NO_SETTINGS)
    rows = {name: [one.get(name, "-") for one in settings] for name in names}
    return {name: row for name, row in rows.items() if len(set(row)) > 1}
