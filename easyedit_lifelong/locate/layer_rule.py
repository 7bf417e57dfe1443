"""Which layers to edit, by causal tracing: ROME's layer and MEMIT's range of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from easyedit_lifelong.locate.averages import average_effects, average_severed_effects
from easyedit_lifelong.locate.trace import FactTrace

LAST_SUBJECT = "last subject token"
_SHARE_OF_PEAK = 0.5


@dataclass(frozen=True)
class SuggestedLayers:
    """The layers that causal tracing suggests.

    Attributes:
        single: the layer whose window of MLPs has the largest average indirect effect at the subject's last token
            (Meng et al. 2022, section 2.2); None without traces of MLPs.
        several: the layers in which the average indirect effect of the subject's last state is above that with severed
            MLPs (Meng et al. 2023, section 4.2); None without severed runs.
        gaps: the difference of these two effects at each layer.
    """

    single: int | None
    several: range | None
    gaps: list[float] | None = None


def suggest_layers(traces: Sequence[FactTrace]) -> SuggestedLayers:
    """Return the layers to edit.

    MEMIT's authors read the range of layers from a figure. Here it consists of the layers around the largest gap
    whose gap is at least half of it: there, the MLPs above the restored state carry its effect.

    Args:
        traces: traces of facts in one model; at least one.
    """
    single = several = gaps = None
    if all("mlp" in trace.scores for trace in traces):
        single = int(np.argmax(average_effects(traces, "mlp")[LAST_SUBJECT].means))
    if all("state" in trace.scores and "mlp" in trace.severed for trace in traces):
        state = np.array(average_effects(traces, "state")[LAST_SUBJECT].means)
        difference = state - np.array(average_severed_effects(traces, "mlp").means)
        gaps = difference.tolist()
        several = layers_around_peak(gaps)
    return SuggestedLayers(single, several, gaps)


def layers_around_peak(gaps: Sequence[float]) -> range | None:
    """Return the contiguous layers around the largest gap whose gap is at least half of it; None if no gap is above 0.

    Args:
        gaps: the gap of each layer.
    """
    peak = int(np.argmax(gaps))
    if gaps[peak] <= 0:
        return None
    begin = end = peak
    while begin > 0 and gaps[begin - 1] >= _SHARE_OF_PEAK * gaps[peak]:
        begin -= 1
    while end + 1 < len(gaps) and gaps[end + 1] >= _SHARE_OF_PEAK * gaps[peak]:
        end += 1
    return range(begin, end + 1)
