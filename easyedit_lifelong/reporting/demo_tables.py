"""What the command ``demo`` prints: answers before and after the edits, and the scores of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.reporting.answer_texts import CONTINUES_NOTE, answer_text, continues, edited_answers_table
from easyedit_lifelong.reporting.console_tables import plain_table, print_line

_NEW_TOKENS = 8
_ROWS = {
    "ES": "reliability_before",
    "ERR": "reliability_before",
    "generality": "generality_before",
    "locality": None,
    "TRR": "TRR_before",
    "generation_match": "generation_match_before",
    "generation_match_word": None,
    "generation_match_rephrase": "generation_match_rephrase_before",
}
"""The metrics in the table, each with the name of the unedited model's score."""
_LABELS = {
    "ERR": "ERR (reliability)",
    "generation_match_word": "… whole words",
    "generation_match_rephrase": "… after paraphrases",
}
_LEGEND = """
ES, ERR: shares of the targets' tokens that the model gives at the edited
prompts, right after an edit and at the end. generality: the same for
paraphrases. locality: share of the answers' tokens about other subjects that
stay. TRR: share of the right answers' tokens for facts that are not edited.
generation_match: share of free answers that begin with the target.
docs/metrics.md has all of them."""
_THE_FACT, _PARAPHRASE, _ANOTHER_FACT = "the fact", "in other words", "another fact"


def answers(model: Any, tokenizer: Any, requests: Sequence[EditRequest]) -> list[str]:
    """Return the model's answers to the prompts of :func:`_queries`, in the same order."""
    return Scorer(tokenizer).generate(model, [prompt for prompt, *_ in _queries(requests)], _NEW_TOKENS)


def show_answers(
    console: Console, requests: Sequence[EditRequest], before: Sequence[str], after: Sequence[str]
) -> None:
    """Print the model's answer to each prompt before and after the edits."""
    rows = [(*query, old, new) for query, old, new in zip(_queries(requests), before, after, strict=True)]
    edited_answers_table(console, rows, "\nFree generation, before and after")


def _queries(requests: Sequence[EditRequest]) -> list[tuple[str, str, str | None]]:
    """Return each request's prompt, rephrased prompts and locality prompts.

    Returns:
        For each prompt: the prompt, the text of the column "edited to", and the target; None for a locality prompt.
    """
    queries: list[tuple[str, str, str | None]] = []
    for request in requests:
        target = request.target_new
        queries.append((request.prompt, target, target))
        queries += [(prompt, f"{target} (rephrased)", target) for prompt in request.rephrase_prompts]
        queries += [(probe.prompt, "(unchanged)", None) for probes in request.locality.values() for probe in probes]
    return queries


def related_prompts(request: EditRequest) -> list[tuple[str, str]]:
    """Return a fact's prompt, paraphrases, other questions about its subject, and questions about other subjects.

    Returns:
        Pairs of a prompt and of what it is.
    """
    prompts = [(request.prompt, _THE_FACT)]
    prompts += [(prompt, _PARAPHRASE) for prompt in request.rephrase_prompts]
    prompts += [(probe.prompt, _ANOTHER_FACT) for probe in request.relation_specificity]
    return prompts + [(probe.prompt, "another subject") for probes in request.locality.values() for probe in probes]


def show_facts(
    console: Console, requests: Sequence[EditRequest], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]
) -> None:
    """Print a block for each edit with the answers to :func:`related_prompts`, and what a mark in them means.

    Args:
        console: the console.
        requests: the edits.
        before: for each edit, the answers of the unedited model to :func:`related_prompts`.
        after: those of the edited model.
    """
    are_cut = [_show_fact(console, *block) for block in zip(requests, before, after, strict=True)]
    if any(are_cut):
        print_line(console, f"\n{CONTINUES_NOTE}.")


def _show_fact(console: Console, request: EditRequest, before: Sequence[str], after: Sequence[str]) -> bool:
    """Print the block of an edit; return whether an answer in it is cut at the target's end."""
    edit = f"{request.subject}: {request.ground_truth} -> {request.target_new} (case {request.case_id})"
    console.print(f"\n{edit}", highlight=False, markup=False)
    block = Table.grid(padding=(0, 2))
    is_cut = False
    for (prompt, kind), *texts in zip(related_prompts(request), before, after, strict=True):
        if kind in (_THE_FACT, _PARAPHRASE):
            is_cut = is_cut or any(continues(text, request.target_new) for text in texts)
            texts = [answer_text(text, request.target_new) for text in texts]
        old, new = texts
        block.add_row(Text(f"  {kind}"), Text(f"{prompt} ..."))
        if old != new:
            block.add_row(Text("         before"), Text(old))
        block.add_row(Text("         answer" if old == new else "          after"), Text(new))
    console.print(block)
    return is_cut


def other_facts_changed(
    requests: Sequence[EditRequest], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]
) -> bool:
    """Return whether an edit changed the answer to another question about its subject.

    Args:
        requests: the edits.
        before: for each edit, the answers of the unedited model to :func:`related_prompts`.
        after: those of the edited model.
    """
    return any(
        kind == _ANOTHER_FACT and old != new
        for request, olds, news in zip(requests, before, after, strict=True)
        for (_, kind), old, new in zip(related_prompts(request), olds, news, strict=True)
    )


def comparison_table(console: Console, summaries: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Print the scores of several runs on the same facts, with a column for each run, and what the scores mean.

    Args:
        console: the console.
        summaries: the ``summary.json`` of each run, by the name of its column.
        title: title of the table.
    """
    table = plain_table(title)
    table.add_column("metric")
    for name in ("unedited", *summaries):
        table.add_column(name, justify="right")
    table.add_column("kind")
    scores = {name: summary["metrics"] for name, summary in summaries.items()}
    # The unedited model has the same scores in every run.
    unedited: dict[str, float] = {name: score for run in scores.values() for name, score in run.items()}
    for metric, before in _ROWS.items():
        if any(metric in run for run in scores.values()):
            cells = [_score(unedited, before), *(_score(run, metric) for run in scores.values())]
            table.add_row(_LABELS.get(metric, metric), *cells, METRICS[metric].kind)
    seconds = [f"{summary['timing']['seconds_per_edit']:.2f}" for summary in summaries.values()]
    table.add_row("wall seconds an edit (mean)", "", *seconds, "")
    if any(summary["n_failed"] for summary in summaries.values()):
        table.add_row("edits that failed", "", *(str(summary["n_failed"]) for summary in summaries.values()), "")
    console.print(table)
    print_line(console, _LEGEND)


def _score(scores: Mapping[str, float], name: str | None) -> str:
    """Return a score as text; a dash if there is none."""
    return f"{scores[name]:.3f}" if name is not None and name in scores else "-"
