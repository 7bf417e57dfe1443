"""The page of a tracing: average effects, severed paths, suggested layers, and heat maps of single facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from easyedit_lifelong.locate.averages import (
    ROLES,
    LayerMeans,
    average_effects,
    average_severed_effects,
    average_total_effect,
)
from easyedit_lifelong.locate.layer_rule import LAST_SUBJECT, SuggestedLayers, suggest_layers
from easyedit_lifelong.locate.restorations import KINDS, MODULES
from easyedit_lifelong.locate.trace import FactTrace
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report.axes import Plot
from easyedit_lifelong.reporting.report.page import render_page
from easyedit_lifelong.reporting.report.trace_figures import (
    KIND_NAMES,
    average_figure,
    heat_map,
    largest_effects,
    severed_figure,
)

_N_SINGLE = 3
"""Number of facts whose heat maps are shown."""


def trace_page(
    traces: Sequence[FactTrace], statuses: Mapping[str, int], settings: Mapping[str, Any]
) -> tuple[str, list[Plot]]:
    """Return the page of a tracing as HTML, and its figures. Call this function within :func:`figure_options`.

    Args:
        traces: the traces; at least one.
        statuses: number of facts of each status.
        settings: the settings of the tracing.
    """
    window = int(settings.get("window", 10))
    kinds = [kind for kind in KINDS if kind in traces[0].scores]
    averages = {kind: average_effects(traces, kind) for kind in kinds}
    average_plots = [average_figure(averages[kind], kind, window) for kind in kinds]
    severed = {module: average_severed_effects(traces, module) for module in MODULES if module in traces[0].severed}
    severed_plots = (
        [severed_figure(averages["state"][LAST_SUBJECT], severed)] if severed and "state" in averages else []
    )
    single = [
        (trace, [heat_map(trace, kind, window) for kind in kinds]) for trace in largest_effects(traces, _N_SINGLE)
    ]
    plots = [*average_plots, *severed_plots, *(plot for _, drawn in single for plot in drawn)]
    layers = suggest_layers(traces)
    n_others = {name: count for name, count in statuses.items() if name != "traced"}
    page = render_page(
        "locate.html.j2",
        plots,
        title=f"Causal traces of {settings.get('model', 'a model')}",
        facts=[counted(len(traces), "fact"), *(f"{count} {name}" for name, count in n_others.items())],
        tiles=_tiles(traces, layers),
        average_plots=average_plots,
        severed_plots=severed_plots,
        layer_sentences=layer_sentences(layers),
        kind_names=[KIND_NAMES[kind] for kind in kinds],
        peaks=[(role, [peak_text(averages[kind].get(role)) for kind in kinds]) for role in ROLES],
        single=single,
        settings=settings,
    )
    return page, plots


def layer_sentences(layers: SuggestedLayers) -> list[str]:
    """Return sentences that say which layers to edit, and why."""
    sentences = []
    if layers.single is not None:
        sentences.append(
            f"One layer: {layers.single}. There, restored MLP outputs at the last subject token have their largest "
            "average indirect effect (ROME)."
        )
    if layers.several is not None:
        sentences.append(
            f"Several layers: {layers.several[0]} to {layers.several[-1]}. There, the effect of the last subject "
            "token's state depends most on the MLPs above it: the difference that severing them makes is at least "
            "half of its largest value (MEMIT)."
        )
    return sentences or ["The traces have no MLPs, so they suggest no layers."]


def peak_text(average: LayerMeans | None) -> str:
    """Return the layer of the largest mean, and that mean, as text."""
    if average is None:
        return "-"
    layer = int(np.argmax(average.means))
    return f"{layer} ({average.means[layer]:.3f})"


def _tiles(traces: Sequence[FactTrace], layers: SuggestedLayers) -> list[tuple[str, str]]:
    """Return the main numbers, for the tiles at the top of the page."""
    tiles = [
        ("facts traced", str(len(traces))),
        ("clean probability", f"{np.mean([trace.high for trace in traces]):.3f}"),
        ("corrupted probability", f"{np.mean([trace.low for trace in traces]):.3f}"),
        ("average total effect", f"{average_total_effect(traces):.3f}"),
    ]
    if layers.single is not None:
        tiles.append(("layer (ROME's rule)", str(layers.single)))
    if layers.several is not None:
        tiles.append(("layers (MEMIT's rule)", f"{layers.several[0]} to {layers.several[-1]}"))
    return tiles
