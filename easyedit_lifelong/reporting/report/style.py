"""The style of all figures: a palette for colour-blind readers, with distinct lines and markers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#24292f", "#656d76", "#d8dee4", "#ffffff"
# The palette of Okabe and Ito, without yellow, which is hard to see on white.
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
"""For each colour, the custom property in the page's style sheet, so that figures follow the light or dark theme."""

SIZE = (4.8, 3.0)
"""Default size of a figure, in inches. It is small so that text is legible on the screen of a telephone."""

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
def figure_options() -> Iterator[None]:
    """Set matplotlib's options for figures of this package, and restore them afterwards."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # In an SVG, a character that this font lacks is drawn with the fonts of the reader.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def new_figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    """Return an empty figure that is independent of ``pyplot``."""
    return Figure(figsize=(width, height), layout="constrained")


def series_style(number: int) -> dict[str, Any]:
    """Return colour, line and marker of the n-th series; the first 168 are distinct."""
    return {
        "color": SERIES[number % len(SERIES)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend below the plot."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=3.2, columnspacing=1.4)
