"""Counters and histograms of a server, written as Prometheus reads them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping

_PREFIX = "easyedit_lifelong_"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_HELP = {
    "requests_total": "Answered HTTP requests.",
    "request_seconds": "Seconds from the arrival of a request to the beginning of its answer.",
    "prompt_tokens_total": "Tokens of the prompts of complete answers.",
    "generated_tokens_total": "Tokens of complete answers.",
    "step_seconds": "Seconds of a step: a prefill, a token of each running answer, or a static batch.",
    "step_rows_total": "Answers that got tokens, added over all steps.",
    "changes_total": "Versions that were made.",
    "change_seconds": "Seconds from the arrival of an edit, deletion or rollback to its acknowledgement.",
    "version": "The present version of the edits.",
    "edits": "The edits of the present version.",
    "waiting": "Requests and changes that wait.",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The counters and histograms. All methods can be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._observed: dict[str, list[float]] = defaultdict(lambda: [0.0] * (len(_BUCKETS) + 2))

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name][tuple(sorted(labels.items()))] += amount

    def observe(self, name: str, seconds: float) -> None:
        """Add a duration to a histogram."""
        with self._lock:
            entry = self._observed[name]  # the buckets, the number of durations, and their sum
            for index, limit in enumerate(_BUCKETS):
                entry[index] += seconds <= limit
            entry[-2] += 1
            entry[-1] += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all metrics in Prometheus' text format.

        Args:
            gauges: the present values of gauges, by name.
        """
        lines: list[str] = []
        with self._lock:
            for name, values in sorted(self._counters.items()):
                lines += _header(name, "counter")
                lines += [f"{_PREFIX}{name}{_labels(labels)} {_number(value)}" for labels, value in values.items()]
            for name, entry in sorted(self._observed.items()):
                lines += _header(name, "histogram")
                limits = [*map(_number, _BUCKETS), "+Inf"]
                lines += [
                    f'{_PREFIX}{name}_bucket{{le="{limit}"}} {_number(count)}'
                    for limit, count in zip(limits, entry[:-1], strict=True)
                ]
                lines += [f"{_PREFIX}{name}_sum {entry[-1]}", f"{_PREFIX}{name}_count {_number(entry[-2])}"]
        for name, value in gauges.items():
            lines += [*_header(name, "gauge"), f"{_PREFIX}{name} {_number(value)}"]
        return "\n".join(lines) + "\n"


def _header(name: str, kind: str) -> list[str]:
    """Return the lines that describe a metric."""
    return [f"# HELP {_PREFIX}{name} {_HELP[name]}", f"# TYPE {_PREFIX}{name} {kind}"]


def _labels(labels: Labels) -> str:
    """Return labels in braces; nothing without labels."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""


def _number(value: float) -> str:
    """Return a number as text, without a fraction if it is whole."""
    return str(int(value)) if value == int(value) else str(value)
