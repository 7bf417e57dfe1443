"""GRACE's section of a run's report: the number of keys in the codebook, and their deferral radii."""

from __future__ import annotations

from collections import Counter

from easyedit_lifelong.methods.report_sections import EDITS, ReportPlot, ReportSection, RunRecord, Series, is_number

_DECISIONS = ("add", "expand", "covered", "split", "supersede")


def report_sections(run: RunRecord) -> list[ReportSection]:
    """Return the section about the codebook: its growth, and the deferral radii."""
    plots = [*_growth(run), *_radii(run)]
    empty = "The journal holds no codebook data: nothing was edited."
    return [ReportSection("codebook", "Codebook", plots, empty)]


def _growth(run: RunRecord) -> list[ReportPlot]:
    """Return the plot of the number of keys against the number of edits."""
    counts = run.counts("n_keys")
    if not counts:
        return []
    end = max(n for n, _ in counts)
    edits, keys = counts[-1]
    hold, held = "key holds" if keys == 1 else "keys hold", "edit" if edits == 1 else "edits"
    caption = f"{keys:g} {hold} {edits:g} {held}: {edits / keys if keys else 0:.2f} edits a key."
    series = [
        Series("keys", counts, marker="o" if len(counts) == 1 else ""),
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
    edits = run.edits("radius")
    if not edits:
        return []
    distances = [(n, edit["nearest_distance"]) for n, edit in edits if is_number(edit.get("nearest_distance"))]
    radii = [(n, float(edit["radius"]), str(edit.get("decision", "edit"))) for n, edit in edits]
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
        f"distance to the nearest key is at most its radius plus ε_init, edits share a key or split its radius. "
        f"{', '.join(f'{name} {count}' for name, count in counts.most_common())}."
    )
    alt = f"Radii of keys against {EDITS}"
    return [ReportPlot("radii", "Deferral radii", caption, alt, "distance", series, y_axis="positive")]


def _rank(decision: str) -> int:
    """Return a decision's place in the legend; unknown decisions come last."""
    return _DECISIONS.index(decision) if decision in _DECISIONS else len(_DECISIONS)
