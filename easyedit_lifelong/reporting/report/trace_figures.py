"""The figures of causal traces: heat maps of facts, average effects by layer, and severed paths."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from easyedit_lifelong.locate.averages import LayerMeans
from easyedit_lifelong.locate.restorations import Kind, Module
from easyedit_lifelong.locate.state_changes import StateChanges
from easyedit_lifelong.locate.trace import FactTrace
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report.axes import Plot, draw_band
from easyedit_lifelong.reporting.report.style import MUTED, SERIES, SIZE, legend_below, new_figure, series_style

KIND_NAMES: Mapping[str, str] = {"state": "hidden states", "mlp": "MLP outputs", "attention": "attention outputs"}
_COLOURS: Mapping[str, str] = {"state": SERIES[0], "mlp": SERIES[2], "attention": SERIES[1]}
_CELL_HEIGHT = 0.19
"""Height of a row of a heat map, in inches."""
_SCALE_STEPS = 24
_LONGEST_NAME = 60
"""Characters of a fact's identifier in the name of a file."""


def heat_map(trace: FactTrace, kind: Kind, window: int) -> Plot:
    """Draw the indirect effects of one fact. Call this function within :func:`figure_options`.

    Args:
        trace: the trace.
        kind: what was restored.
        window: number of blocks in a restored window.
    """
    effects = trace.indirect_effects(kind).numpy()
    labels = [
        f"{_visible(text)}{'*' if trace.subject[0] <= index < trace.subject[1] else ''}"
        for index, text in enumerate(trace.tokens)
    ]
    figure = _token_layer_figure(effects, labels, kind, "layer" if kind == "state" else _window_label(window))
    token, layer = np.unravel_index(int(effects.argmax()), effects.shape)
    caption = (
        f"Effect on P({trace.answer.strip()}) of restoring {KIND_NAMES[kind]}. Clean {trace.high:.2f}, corrupted "
        f"{trace.low:.2f}. *: corrupted subject tokens."
    )
    alt = (
        f"Heat map of tokens and layers for {trace.fact.prompt!r}: the largest indirect effect, {effects.max():.2f}, "
        f"is at the token {_visible(trace.tokens[token])!r} and layer {layer}. {caption}"
    )
    return Plot(f"heat-{_in_file_name(str(trace.fact.fact_id))}-{kind}", _title(kind), caption, alt, figure)


def change_map(changes: StateChanges, kind: Kind, name: str) -> Plot:
    """Draw how much edits change the states of a prompt. Call this function within :func:`figure_options`.

    Args:
        changes: the changes.
        kind: which states.
        name: name of the figure's files.
    """
    values = changes.changes[kind].numpy()
    figure = _token_layer_figure(values, [_visible(text) for text in changes.tokens], kind, "layer")
    token, layer = np.unravel_index(int(values.argmax()), values.shape)
    caption = f"Relative change of {KIND_NAMES[kind]}, largest {values.max():.2g}."
    alt = (
        f"Heat map of tokens and layers for {changes.prompt!r}: the largest change is at the token "
        f"{_visible(changes.tokens[token])!r} and layer {layer}. {caption}"
    )
    return Plot(name, _title(kind), caption, alt, figure)


def _title(kind: Kind) -> str:
    """Return the title of a figure of this kind."""
    name = KIND_NAMES[kind]
    return name[0].upper() + name[1:]


def _token_layer_figure(values: np.ndarray, labels: Sequence[str], kind: Kind, x_label: str) -> Figure:
    """Draw a cell for each token (row) and layer (column), beside a scale from 0 to the largest value.

    The opacity of a cell is proportional to its value, so that a cell with 0 or less has the colour of the page, in its
    light and its dark theme.

    Args:
        values: shape ``(tokens, layers)``.
        labels: the label of each token.
        kind: determines the colour.
        x_label: label of the axis of layers.
    """
    n_tokens, n_layers = values.shape
    largest = max(float(values.max()), 1e-12)
    figure = new_figure(height=0.95 + _CELL_HEIGHT * n_tokens)
    axes, scale = figure.subplots(1, 2, width_ratios=(24, 1))
    _draw_cells(axes, np.clip(values / largest, 0, 1), _COLOURS[kind])
    axes.set_yticks(np.arange(n_tokens) + 0.5, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(n_tokens, 0)
    axes.set_xlim(0, n_layers)
    ticks = [layer for layer in MaxNLocator(7, integer=True).tick_values(0, n_layers - 1) if 0 <= layer < n_layers]
    axes.set_xticks([layer + 0.5 for layer in ticks], [f"{layer:.0f}" for layer in ticks])
    axes.set_xlabel(x_label)
    axes.grid(False)
    _draw_cells(scale, np.linspace(1, 0, _SCALE_STEPS)[:, None], _COLOURS[kind])
    scale.set_xlim(0, 1)
    scale.set_ylim(_SCALE_STEPS, 0)
    scale.set_xticks([])
    scale.set_yticks([0, _SCALE_STEPS], [f"{largest:.2g}", "0"])
    scale.yaxis.tick_right()
    scale.tick_params(length=0)
    scale.grid(False)
    return figure


def average_figure(averages: Mapping[str, LayerMeans], kind: Kind, window: int) -> Plot:
    """Draw average indirect effects by layer, a line with a 95 % band for each role of tokens."""
    figure = new_figure(height=SIZE[1] + 0.4)
    axes = figure.add_subplot()
    for number, (role, average) in enumerate(averages.items()):
        style = series_style(number)
        xs = range(len(average.means))
        axes.plot(xs, average.means, label=role, markevery=max(1, len(xs) // 8), **style)
        if average.intervals is not None:
            draw_band(axes, list(zip(xs, average.intervals, strict=True)), style["color"])
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlabel("layer" if kind == "state" else _window_label(window))
    axes.set_ylabel("average indirect effect")
    legend_below(figure, axes)
    n_facts = max(average.n_facts for average in averages.values())
    peaks = "; ".join(
        f"{role} {max(average.means):.3f} at layer {int(np.argmax(average.means))}"
        for role, average in averages.items()
    )
    caption = (
        f"Restored {KIND_NAMES[kind]}, averaged over {counted(n_facts, 'fact')}. Bands are 95 % bootstrap intervals."
    )
    alt = f"Average indirect effect by layer; largest values: {peaks}. {caption}"
    return Plot(f"average-{kind}", _title(kind), caption, alt, figure)


def severed_figure(state: LayerMeans, severed: Mapping[Module, LayerMeans]) -> Plot:
    """Draw the effects of the subject's last state by layer: as it is, and with severed paths."""
    bars = {"state restored": (state, _COLOURS["state"])}
    for module, average in severed.items():
        name = "MLP" if module == "mlp" else module
        bars[f"{name} severed"] = (average, _COLOURS[module])
    figure = new_figure(width=2 * SIZE[0], height=SIZE[1])
    axes = figure.add_subplot()
    width = 0.84 / len(bars)
    for number, (label, (average, colour)) in enumerate(bars.items()):
        xs = np.arange(len(average.means)) + (number - (len(bars) - 1) / 2) * width
        errors = None
        if average.intervals is not None:
            lows, highs = zip(*average.intervals, strict=True)
            means = np.array(average.means)
            errors = np.clip([means - np.array(lows), np.array(highs) - means], 0, None)
        axes.bar(xs, average.means, width, label=label, color=colour, yerr=errors, ecolor=MUTED, error_kw={"lw": 0.7})
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlabel("layer of the restored state")
    axes.set_ylabel("average indirect effect")
    legend_below(figure, axes, columns=3)
    caption = (
        f"Effect of the last subject token's state, averaged over {counted(state.n_facts, 'fact')}, and with the MLPs "
        "or the attention above it frozen at their corrupted values. Bars are 95 % bootstrap intervals."
    )
    peaks = "; ".join(
        f"{label} {max(a.means):.3f} at layer {int(np.argmax(a.means))}" for label, (a, _) in bars.items()
    )
    return Plot("severed", "Severed paths", caption, f"Bars by layer; largest values: {peaks}. {caption}", figure)


def _window_label(window: int) -> str:
    return f"centre of a window of {window} layers"


def _draw_cells(axes: Axes, shares: np.ndarray, colour: str) -> None:
    """Draw a cell for each value, shape ``(rows, columns)``, whose opacity is the value."""
    rows, columns = shares.shape
    cells = [Rectangle((column, row), 1, 1) for row in range(rows) for column in range(columns)]
    faces = [(*to_rgb(colour), float(share)) for share in shares.flatten()]
    axes.add_collection(PatchCollection(cells, facecolors=faces, edgecolors="none", antialiaseds=False))


def _in_file_name(identifier: str) -> str:
    """Return an identifier as a part of a file's name; with a digest of it, if it can't be one unchanged."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", identifier[:_LONGEST_NAME])
    return name if name == identifier else f"{name}-{zlib.crc32(identifier.encode(errors='surrogatepass')):08x}"


def _visible(token: str) -> str:
    """Return the text of a token without spaces around it; spaces alone as a mark."""
    return " ".join(token.split()) or "␣"


def largest_effects(traces: Sequence[FactTrace], number: int) -> list[FactTrace]:
    """Return the facts with the largest total effects, the largest first."""
    return sorted(traces, key=lambda trace: -trace.total_effect)[:number]
