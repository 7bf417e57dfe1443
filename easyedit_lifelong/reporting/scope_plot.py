"""The plot of a scope study: z-scores of the tokens around the subject's last token, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from easyedit_lifelong.evaluation.scope import PARAPHRASE, PROMPT, ScopeRow, ScopeStudy, finite
from easyedit_lifelong.reporting.report.generations import printable
from easyedit_lifelong.reporting.report.style import INK, MUTED, SERIES, figure_options, new_figure
from easyedit_lifelong.reporting.report.svg import svg_text

_MAX_DISTANCE = 12
"""Number of tokens shown before and after the subject's last token."""
_BLUE, _RED = SERIES[0], SERIES[1]

Point = tuple[int, float]


def scope_svg(scope: ScopeStudy) -> str:
    """Return the plot as SVG, with one panel for prompts and one for paraphrases.

    Each dot is a token, at its distance from the subject's last token. The solid line is the mean at each distance. The
    dashed line is α, the threshold above which the hook acts.
    """
    panels = [(kind, _points(rows)) for kind in (PROMPT, PARAPHRASE) if (rows := scope.of(kind))]
    with figure_options():
        figure = new_figure(4.8 * max(1, len(panels)), 3.6)
        figure.suptitle(printable(f"z-scores at {scope.module}"), x=0.01, horizontalalignment="left")
        columns = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
        for axes, (kind, points) in zip(columns, panels, strict=False):
            _panel(axes, kind, points, scope.alpha)
        return svg_text(figure)


def _points(rows: Sequence[ScopeRow]) -> list[Point]:
    """Return (distance from the subject's last token, z-score) of every token that is near enough."""
    return [
        (index - row.subject, z)
        for row in rows
        if row.subject is not None
        for index, z in enumerate(row.z)
        if abs(index - row.subject) <= _MAX_DISTANCE and finite([z])
    ]


def _panel(axes: Axes, kind: str, points: Sequence[Point], alpha: float) -> None:
    """Draw one panel: the tokens, their means and α."""
    axes.set_title(f"{kind}s")
    for name, colour, dots in (
        ("others", MUTED, [point for point in points if point[0] != 0]),
        ("subject", _RED, [point for point in points if point[0] == 0]),
    ):
        axes.plot(
            [distance for distance, _ in dots],
            [z for _, z in dots],
            gid=f"{kind}-{name}",
            linestyle="none",
            marker="o",
            markersize=4,
            markeredgewidth=0,
            color=colour,
            alpha=0.45,
        )
    by_distance: dict[int, list[float]] = {}
    for distance, z in sorted(points, key=lambda point: point[0]):
        by_distance.setdefault(distance, []).append(z)
    means = [sum(scores) / len(scores) for scores in by_distance.values()]
    axes.plot(list(by_distance), means, color=_BLUE, gid=f"{kind}-mean")
    axes.axhline(alpha, color=INK, linewidth=1, linestyle=(0, (5, 4)))
    axes.annotate(
        f"alpha {alpha:.2f}",
        (1, alpha),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        horizontalalignment="right",
    )
    axes.set_xlim(-_MAX_DISTANCE - 0.5, _MAX_DISTANCE + 0.5)
    ticks = range(-_MAX_DISTANCE, _MAX_DISTANCE + 1, 4)
    axes.set_xticks(ticks, [f"{distance:+d}" for distance in ticks])
    axes.set_xlabel("tokens after the subject's last")
