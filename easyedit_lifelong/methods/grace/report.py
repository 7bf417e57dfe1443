"""GRACE's section of a run's report: how many keys the codebook has, and how far they reach."""

from __future__ import annotations

from collections import Counter

from easyedit_lifelong.methods.report_sections import EDITS, ReportPlot, ReportSection, RunRecord, Series, is_number

_DECISIONS = ("add", "expand", "covered", "split", "supersede")


def report_sections(run: RunRecord) -> list[ReportSection]:
    """Return the section on the codebook: its growth, and the deferral radii."""
    plots = [*_growth(run), *_radii(run)]
    empty = "The journal says nothing of a codebook: nothing was edited."
    return [ReportSection("codebook", "Codebook", plots, empty)]


def _growth(run: RunRecord) -> list[ReportPlot]:
    """Return the plot of the number of keys against the number of edits."""
    grown = run.counts("n_keys")
    if not grown:
        return []
    end = max(n for n, _ in grown)
    edits, keys = grown[-1]
    caption = f"{keys:g} keys hold {edits:g} edits: {edits / keys if keys else 0:.2f} edits a key."
    series = [
        Series("keys", grown, marker="o" if len(grown) == 1 else ""),
        Series("one for each edit", [(0, 0), (end, end)], "reference"),
    ]
    return [
        ReportPlot(
            "keys",
            "Codebook growth",
            caption,
            f"Number of keys against {EDITS}",
            "keys",
            series,
            y_axis="zero",
            comparison="Codebook keys",
        )
    ]


def _radii(run: RunRecord) -> list[ReportPlot]:
    """Return the plot of the radius of the key that answers each edit, and of the distance to the nearest key."""
    events = run.edits("radius")
    if not events:
        return []
    distances = [(n, e["nearest_distance"]) for n, e in events if is_number(e.get("nearest_distance"))]
    radii = [(n, float(entry["radius"]), str(entry.get("decision", "edit"))) for n, entry in events]
    counts = Counter(decision for _, _, decision in radii)
    marker = "." if len(distances) > 150 else "x"
    series = [Series("distance to the nearest key", distances, "points", marker=marker, muted=True)]
    for name in sorted(counts, key=lambda name: (_rank(name), name)):
        points = [(n, radius) for n, radius, decision in radii if decision == name]
        series.append(Series(f"radius ({name})", points, "points", style=_rank(name)))
    low, high = min(radius for _, radius, _ in radii), max(radius for _, radius, _ in radii)
    reach = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    caption = (
        f"Deferral radius ε of the key that answers each edit, right after it: {reach}. Where the "
        f"distance to the nearest key falls to its radius and ε_init, keys share or split their ground. "
        f"{', '.join(f'{name} {count}' for name, count in counts.most_common())}."
    )
    alt = f"Radii of keys against {EDITS}"
    return [ReportPlot("radii", "Deferral radii", caption, alt, "distance", series, y_axis="positive")]


def _rank(decision: str) -> int:
    return _DECISIONS.index(decision) if decision in _DECISIONS else len(_DECISIONS)
