"""Average indirect effects (AIE) over facts, by layer and by the role of the restored token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from easyedit_lifelong.evaluation.intervals import bootstrap
from easyedit_lifelong.locate.restorations import Kind, Module
from easyedit_lifelong.locate.trace import FactTrace

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first token after",
    "further tokens",
    "last token",
)
"""The roles of tokens in a prompt, in its order, as in ROME's figure 2."""


@dataclass(frozen=True)
class LayerMeans:
    """The mean of a value over facts, for each layer.

    Attributes:
        means: the means.
        intervals: 95 % bootstrap intervals of the means over facts; None with fewer than two facts.
        n_facts: number of facts.
    """

    means: list[float]
    intervals: list[tuple[float, float]] | None
    n_facts: int


def token_roles(n_tokens: int, subject: tuple[int, int]) -> dict[str, range]:
    """Return the tokens of each role that a prompt has.

    The only token of a subject counts as its last. The last token of the prompt has no other role, unless it is the
    subject's last token.

    Args:
        n_tokens: number of tokens of the prompt.
        subject: index of the subject's first token, and of the one after its last.
    """
    begin, end = subject
    last = n_tokens - 1
    ranges = {
        "first subject token": range(begin, min(begin + 1, end - 1)),
        "middle subject tokens": range(begin + 1, end - 1),
        "last subject token": range(end - 1, end),
        "first token after": range(end, min(end + 1, last)),
        "further tokens": range(end + 1, last),
        "last token": range(last, last + 1) if last >= end else range(0),
    }
    return {role: tokens for role, tokens in ranges.items() if len(tokens)}


def average_effects(traces: Sequence[FactTrace], kind: Kind) -> dict[str, LayerMeans]:
    """Return the average indirect effect by layer for each role of tokens.

    Several tokens of one role in a prompt are averaged first.

    Args:
        traces: the traces, all of one model and with this kind.
        kind: what was restored.
    """
    by_role: dict[str, list[np.ndarray]] = {role: [] for role in ROLES}
    for trace in traces:
        effects = trace.indirect_effects(kind).numpy()
        for role, tokens in token_roles(len(trace.tokens), trace.subject).items():
            by_role[role].append(effects[list(tokens)].mean(axis=0))
    return {role: _layer_means(values) for role, values in by_role.items() if values}


def average_severed_effects(traces: Sequence[FactTrace], module: Module) -> LayerMeans:
    """Return the average effect of the subject's last state at each layer with severed paths."""
    return _layer_means([trace.severed_effects(module).numpy() for trace in traces])


def average_total_effect(traces: Sequence[FactTrace]) -> float:
    """Return the average total effect: the mean of P[o] - P*[o]."""
    return float(np.mean([trace.total_effect for trace in traces]))


def _layer_means(values: Sequence[np.ndarray]) -> LayerMeans:
    """Return the means of values of shape ``(layers,)``, one array for each fact."""
    stacked = np.stack(values)
    columns = [bootstrap(stacked[:, layer : layer + 1].tolist()) for layer in range(stacked.shape[1])]
    intervals = [(interval.low, interval.high) for interval in columns if interval is not None]
    return LayerMeans(stacked.mean(axis=0).tolist(), intervals if len(intervals) == len(columns) else None, len(values))
