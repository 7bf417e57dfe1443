"""The demo: SmolLM2-135M, edited with sample facts through EasyEdit, before and after."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from easyedit_lifelong import bridge
from easyedit_lifelong.data.readers import read_counterfact, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.evaluation.scoring import Scorer
from easyedit_lifelong.lifelong.folder import CONFIG
from easyedit_lifelong.lifelong.loop import LifelongResult, run_lifelong
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.tables import answer_table, score_table

_HPARAMS = "GRACE/smollm2-135m"
_DATA_NAME = "sample facts (CounterFact form)"
_SHOWN = 6


def run_demo(edits: int, out: Path) -> LifelongResult:
    """Edit SmolLM2 with the first sample facts and print what changed.

    Results lie in ``out/GRACE``, in the same form as any lifelong run; those of an earlier demo there
    are replaced.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        ModelError: SmolLM2 isn't installed.
        RunError: the folder holds a run that isn't a demo's.
    """
    console = Console()
    folder = out / "GRACE"
    _check_previous(folder)
    requests = read_requests(COUNTERFACT, read_counterfact)[:edits]
    hparams = GraceHyperParams.from_hparams(_HPARAMS)
    console.print("Loading SmolLM2-135M through EasyEdit's BaseEditor ...")
    with _quiet_easyedit():
        editor = bridge.base_editor().from_hparams(hparams)
    shown = requests[:_SHOWN]
    before = _answers(editor.model, editor.tok, shown)
    _edit_once(console, editor, requests[0])
    shutil.rmtree(folder, ignore_errors=True)  # an earlier demo's, and only now that this one works
    console.print(f"\nNow {len(requests)} facts, one after the other, and none is taken back:")
    with edit_progress(console, len(requests)) as progress:
        result = run_lifelong(
            editor.model, editor.tok, requests, hparams, eval_every=25, out=folder, progress=progress,
            data_name=_DATA_NAME,
        )  # fmt: skip
    after = _answers(result.edited_model, editor.tok, shown)
    rows = []
    for request, (prompts, said_before), (_, said_after) in zip(shown, before, after, strict=True):
        rows += [(prompts[0], request.target_new, said_before[0], said_after[0])]
        rows += [(p, "(unchanged)", b, a) for p, b, a in zip(prompts[1:], said_before[1:], said_after[1:], strict=True)]
    answer_table(console, rows, ("prompt", "edited to", "before", "after"), "\nFree generation, before and after:")
    score_table(console, result.metrics, f"\n{result.summary['n_edits']} edits:")
    console.print(
        f"\n{result.timing['seconds_per_edit']:.2f} s an edit. Results: {folder}/ "
        "(summary.json, journal.jsonl, metrics.jsonl, config.yaml)",
        highlight=False,
    )
    return result


def _edit_once(console: Console, editor: Any, request: EditRequest) -> None:
    """Edit one fact the way an EasyEdit script does; EasyEdit takes the edit back after scoring it."""
    with _quiet_easyedit():
        metrics, _, _ = editor.edit(
            prompts=[request.prompt], target_new=[request.target_new], ground_truth=[request.ground_truth or ""],
            keep_original_weight=True, verbose=False,
        )  # fmt: skip
    pre, post = (metrics[0][phase]["rewrite_acc"][0] for phase in ("pre", "post"))
    console.print(
        f"BaseEditor.edit: {request.prompt!r} -> {request.target_new!r}: rewrite accuracy {pre:.2f} before, "
        f"{post:.2f} after the edit",
        highlight=False, markup=False,
    )  # fmt: skip


def _answers(model: Any, tokenizer: Any, requests: list[EditRequest]) -> list[tuple[list[str], list[str]]]:
    """Let the model continue each request's prompt and its locality prompts."""
    scorer = Scorer(tokenizer)
    asked = [[r.prompt, *(probe.prompt for probes in r.locality.values() for probe in probes)] for r in requests]
    said = iter(scorer.generate(model, [prompt for prompts in asked for prompt in prompts], 8))
    return [(prompts, [next(said) for _ in prompts]) for prompts in asked]


def _check_previous(folder: Path) -> None:
    """Check that what the folder holds, if anything, is an earlier demo's.

    Raises:
        RunError: it isn't.
    """
    config = folder / CONFIG
    written = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None
    if isinstance(written, dict) and written.get("data") == _DATA_NAME:
        return
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: holds something that isn't a demo's. Choose another folder with --out.")


@contextlib.contextmanager
def _quiet_easyedit() -> Iterator[None]:
    """Keep EasyEdit's own prints and log lines out of the demo; its ``logs`` folder stays its own."""
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
