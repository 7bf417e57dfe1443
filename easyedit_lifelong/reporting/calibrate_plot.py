"""A calibration's plots, side by side in one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes

from easyedit_lifelong.methods.calibrator import PlotPanel
from easyedit_lifelong.reporting.report.generations import clean
from easyedit_lifelong.reporting.report.style import INK, MUTED, drawing, look, new_figure

_DOTS = 120


def panels_png(panels: Sequence[PlotPanel]) -> bytes:
    """Return plots as a PNG file's bytes; the chosen point of each is in a circle."""
    with drawing():
        figure = new_figure(5.5 * len(panels), 4.2)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, panel)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, panel: PlotPanel) -> None:
    for series in panel.series:
        style = look(series.number)
        if series.style == "dotted":
            style |= {"marker": None, "linestyle": "dotted", "linewidth": 1.2}
        elif series.style == "crosses":
            style |= {"marker": "x", "linestyle": "none"}
        axes.plot(*zip(*series.points, strict=True), label=clean(series.label), **style)
        for place, text in series.notes.items():
            axes.annotate(text, place, xytext=(4, 4), textcoords="offset points", fontsize=7, color=MUTED)
    x, y = panel.chosen
    axes.plot([x], [y], linestyle="none", marker="o", markersize=13, markerfacecolor="none", markeredgecolor=INK)
    axes.set(title=clean(panel.title), xlabel=clean(panel.x_label), ylabel=clean(panel.y_label))
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), [clean(name) for name in panel.ticks])
    if panel.y_range is not None:
        axes.set_ylim(panel.y_range)
    if any(series.label for series in panel.series):
        axes.legend(loc="best")
