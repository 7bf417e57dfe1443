"""How figures look: one palette that the colour-blind can tell apart, and distinct lines and markers with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#24292f", "#656d76", "#d8dee4", "#ffffff"
# Okabe and Ito's palette, without the yellow, which white paper swallows.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195")
_LINES: tuple[Any, ...] = (
    "solid",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (9, 3)),
    (0, (3, 1.5, 1.5, 1.5, 1.5, 1.5)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

THEME = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--s{n}" for n, colour in enumerate(SERIES, 1)
}
"""The custom property of the page's style sheet that stands for each colour; so figures follow its theme."""

SIZE = (4.8, 3.0)
"""Inches. Small, so that text stays legible where a page is as narrow as a telephone."""

_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "easyedit-lifelong",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "figure.dpi": 72,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw and save figures inside; what matplotlib is set to outside stays."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # A name in a script that the font lacks is still right in an SVG, where the reader's fonts count.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def new_figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    """Return an empty figure, of no window and of nobody's state."""
    return Figure(figsize=(width, height), layout="constrained")


def look(number: int) -> dict[str, Any]:
    """Return colour, line and marker of the n-th series; no two alike before the 168th."""
    return {
        "color": SERIES[number % len(SERIES)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend under the plot, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=3.2, columnspacing=1.4)
