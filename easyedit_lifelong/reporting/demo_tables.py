"""The demo's tables: what the model says before and after, and two methods' scores side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.reporting.console_tables import answer_table

_TOKENS = 8
_ROWS = {
    "ES": "reliability_before", "ERR": "reliability_before", "generality": "generality_before", "locality": None,
    "TRR": "TRR_before", "generation_match": None, "generation_match_word": None, "generation_match_rephrase": None,
}  # fmt: skip
"""The metrics shown, and under which name the unedited model's score is found."""
_LABELS = {"ERR": "ERR (reliability)"}


def answers(model: Any, tokenizer: Any, requests: Sequence[EditRequest]) -> list[str]:
    """Let the model continue the prompts of :func:`_asked`, in their order."""
    return Scorer(tokenizer).generate(model, [prompt for prompt, _ in _asked(requests)], _TOKENS)


def show_answers(
    console: Console, requests: Sequence[EditRequest], before: Sequence[str], after: Sequence[str]
) -> None:
    """Print what the model said to each prompt before and after the edits."""
    rows = [(*asked, then, now) for asked, then, now in zip(_asked(requests), before, after, strict=True)]
    answer_table(console, rows, ("prompt", "edited to", "before", "after"), "\nFree generation, before and after:")


def _asked(requests: Sequence[EditRequest]) -> list[tuple[str, str]]:
    """Return each request's prompt, its rephrased and its locality prompts, and what each is edited to."""
    asked = []
    for request in requests:
        asked.append((request.prompt, request.target_new))
        asked += [(prompt, f"{request.target_new} (rephrased)") for prompt in request.rephrase_prompts]
        asked += [(probe.prompt, "(unchanged)") for probes in request.locality.values() for probe in probes]
    return asked


def comparison_table(console: Console, summaries: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Print the scores of several runs on the same facts side by side.

    Args:
        console: where to.
        summaries: what each run's ``summary.json`` holds, by the name of its column.
        title: stands above.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("metric")
    for name in ("unedited", *summaries):
        table.add_column(name, justify="right")
    table.add_column("kind")
    scores = {name: summary["metrics"] for name, summary in summaries.items()}
    # The unedited model is the same one in every run.
    unedited: dict[str, float] = {name: score for run in scores.values() for name, score in run.items()}
    for metric, before in _ROWS.items():
        if any(metric in run for run in scores.values()):
            cells = [_score(unedited, before), *(_score(run, metric) for run in scores.values())]
            table.add_row(_LABELS.get(metric, metric), *cells, METRICS[metric].kind)
    seconds = [f"{summary['timing']['seconds_per_edit']:.2f}" for summary in summaries.values()]
    table.add_row("seconds an edit", "", *seconds, "")
    if any(summary["n_failed"] for summary in summaries.values()):
        table.add_row("edits that failed", "", *(str(summary["n_failed"]) for summary in summaries.values()), "")
    console.print(table)


def _score(scores: Mapping[str, float], name: str | None) -> str:
    return f"{scores[name]:.3f}" if name is not None and name in scores else "-"
