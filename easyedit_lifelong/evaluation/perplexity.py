"""Perplexity, from the mean negative log-likelihood of tokens."""

from __future__ import annotations

import math

_MAX_NLL = 50.0
"""The largest mean negative log-likelihood, in nats per token, that a perplexity is computed from."""


def bounded_perplexity(nll: float) -> float:
    """Return exp(nll), for nats per token; at most 5e21, also for inf and NaN, so that averages stay finite."""
    return math.exp(min(nll, _MAX_NLL)) if math.isfinite(nll) else math.exp(_MAX_NLL)
