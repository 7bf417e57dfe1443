"""Names that tell runs apart, and the settings in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from easyedit_lifelong.reporting.report.generations import clean
from easyedit_lifelong.reporting.report.read import Run
from easyedit_lifelong.reporting.trackers.flat import flat

_NO_SETTINGS = ("schema_version", "started", "recorded.started")


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a short name for each run: its method, and of model and folder as much as tells it from the others."""
    several_models = len({run.model for run in runs}) > 1
    names, *longer_names = zip(*(_candidates(run, several_models) for run in runs), strict=True)
    for longer in longer_names:
        counts = Counter(names)
        names = tuple(long if counts[name] > 1 else name for name, long in zip(names, longer, strict=True))
    seen: Counter[str] = Counter()
    numbered = []
    for name in map(clean, names):
        seen[name] += 1  # the same folder, twice
        numbered.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return numbered


def _candidates(run: Run, with_model: bool) -> list[str]:
    """Return names for a run, each more exact than the one before."""
    model, folder = run.model.rstrip("/").rpartition("/")[2] if with_model else "", run.folder.resolve()
    details = ((model,), (model, folder.name), ("/".join(folder.parts[-2:]),), (str(folder),))
    return [" · ".join(filter(None, (run.method, *detail))) for detail in details]


def settings_as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings under dotted names, as text."""
    return {name: "" if value is None else str(value) for name, value in flat(values).items()}


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings that aren't the same in all runs, with each run's; a dash where a run has none."""
    settings = [settings_as_text(run.config) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one if name not in _NO_SETTINGS)
    rows = {name: [one.get(name, "-") for one in settings] for name in names}
    return {name: row for name, row in rows.items() if len(set(row)) > 1}
