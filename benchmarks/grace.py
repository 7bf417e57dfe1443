"""GRACE, EasyEdit's and ours, side by side: seconds an edit, one at a time and in batches.

    python benchmarks/grace.py --upstream PATH_OF_AN_EASYEDIT_CHECKOUT [--data FILE] [--edits 16] [--batch 16]

Both sides edit the same requests in the same order, in the same process, in turn, with the same hyperparameters.
EasyEdit takes all of ``n_iter`` steps for every edit: it reads ``reg: early_stop`` but doesn't stop. Ours stops when
the target is learned; ``--no-early-stop`` has it take all steps, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _machine import alternate, describe, finish, machine, median, stop
from rich.console import Console
from rich.table import Table

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, load_model, read_requests
from easyedit_lifelong.bridge import install
from easyedit_lifelong.commands.run_session import reader_of
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import FOLDER
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.scorer import Scorer

Measured = tuple[float, float, float, float | None, float]
"""Seconds and CPU seconds an edit, ES, ERR and steps an edit."""


@dataclasses.dataclass
class Side:
    """What was measured of one side, one entry a run; ``cpu`` counts all threads of this process.

    Attributes:
        edit: edits the requests on a fresh model, and returns what scores them (right after each, and all at the
            end) and the steps an edit took on average.
    """

    name: str
    edit: Callable[[], Measured]
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    scores: tuple[float | None, ...] = ()

    def run(self, _: int) -> None:
        """Time one run."""
        seconds, cpu, *scores = self.edit()
        self.seconds.append(seconds)
        self.cpu.append(cpu)
        self.scores = tuple(scores)


class Bench:
    """Both sides on one model and the same requests.

    Args:
        theirs: EasyEdit's module ``models.grace``.
        model: the model; both sides leave it as it was.
        tokenizer: its tokenizer.
        requests: what to edit.
        hparams: GRACE's hyperparameters.
    """

    def __init__(
        self, theirs: Any, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams
    ) -> None:
        self.theirs, self.model, self.tokenizer = theirs, model, tokenizer
        self.requests, self.hparams = list(requests), hparams
        self.scorer = Scorer(tokenizer)

    def upstream(self) -> Measured:
        """Edit with EasyEdit's GRACE."""
        config = SimpleNamespace(**{**dataclasses.asdict(self.hparams), "device": "cpu", "alg_name": "GRACE"})
        tokenize = importlib.import_module(f"{self.theirs.__name__}.utils").tokenize
        before = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        wall = cpu = 0.0
        success, undo = [], None
        for request in self.requests:
            record = {"prompt": request.prompt, "target_new": request.target_new}
            began, began_cpu = time.perf_counter(), time.process_time()
            editor, reset = self.theirs.apply_grace_to_model(self.model, self.tokenizer, [record], config)
            wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - began_cpu
            undo = undo or reset
            tokens = tokenize(record, tokenizer=self.tokenizer, device="cpu")
            with torch.no_grad():  # its query is where the last edit's prompt ended, which is right for this one
                said = editor(**tokens).logits[0, :-1].argmax(dim=-1)
            wanted = tokens["labels"][0, 1:]
            success.append(float((said == wanted)[wanted != -100].float().mean()))
        assert undo is not None
        undo()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(before[name])
            parameter.grad = None
        count = len(self.requests)
        return wall / count, cpu / count, sum(success) / count, None, float(self.hparams.n_iter)

    def ours(self, batch: int) -> Measured:
        """Edit with ours, ``batch`` requests a call."""
        wall = cpu = 0.0
        success: list[float] = []
        steps: list[int] = []
        rollbacks = []
        for start in range(0, len(self.requests), batch):
            some = self.requests[start : start + batch]
            began, began_cpu = time.perf_counter(), time.process_time()
            _, rollback = apply_grace_to_model(self.model, self.tokenizer, some, self.hparams)
            wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - began_cpu
            rollbacks.append(rollback)
            steps += [result.steps for result in rollback.results]
            success += [answer.accuracy for answer in self._answers(some)]
        kept = [answer.accuracy for answer in self._answers(self.requests)]
        for rollback in reversed(rollbacks):
            rollback()
        count = len(self.requests)
        return wall / count, cpu / count, sum(success) / count, sum(kept) / count, sum(steps) / count

    def _answers(self, requests: Sequence[EditRequest]) -> Any:
        return self.scorer.forced(self.model, [(request.prompt, request.target_new) for request in requests])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", type=Path, required=True, help="checkout of EasyEdit's main branch")
    parser.add_argument("--data", default=str(FOLDER / "counterfact.json"), help="dataset file (default: sample facts)")
    parser.add_argument("--hparams", default="GRACE/smollm2-135m", help="hyperparameter file or shipped name")
    parser.add_argument("--edits", type=int, default=16, help="how many (default 16)")
    parser.add_argument("--batch", type=int, default=16, help="of ours, how many a call (default 16)")
    parser.add_argument("--upstream-edits", type=int, default=3, help="how many of them EasyEdit makes (default 3)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default 3)")
    parser.add_argument("--no-early-stop", action="store_true", help="have ours take all steps")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(given.upstream))
    install()
    try:
        theirs = importlib.import_module("easyeditor.models.grace")
    except ImportError as error:
        return stop(f"{given.upstream}: holds no EasyEdit with GRACE: {error}")
    try:
        hparams = GraceHyperParams.from_hparams(given.hparams)
        hparams = dataclasses.replace(hparams, reg=None) if given.no_early_stop else hparams
        requests = list(read_requests(given.data, reader_of(given.data, None).read))[: given.edits]
        model, tokenizer = load_model(hparams.model_name, "cpu")
    except LifelongError as error:
        return stop(error)
    bench = Bench(theirs, model, tokenizer, requests, hparams)
    few = Bench(theirs, model, tokenizer, requests[: given.upstream_edits], hparams)
    return _compare(given, bench, few)


def _compare(given: argparse.Namespace, bench: Bench, few: Bench) -> int:
    sides = [
        Side("EasyEdit", few.upstream),
        Side("ours, one at a time", lambda: bench.ours(1)),
        Side(f"ours, {given.batch} a call", lambda: bench.ours(given.batch)),
    ]
    Bench(bench.theirs, bench.model, bench.tokenizer, bench.requests[:1], bench.hparams).ours(1)  # untimed
    alternate(given.runs, *(side.run for side in sides))
    theirs, single, batched = (median(side.seconds) for side in sides)
    console = Console()
    console.print(describe(machine()))
    table = Table("side", "s an edit", "CPU s", "times faster", "ES", "ERR", "steps")
    for side in sides:
        faster = theirs / median(side.seconds)
        success, kept, steps = side.scores
        table.add_row(
            side.name,
            f"{median(side.seconds):.3f}",
            f"{median(side.cpu):.3f}",
            f"{faster:.1f}",
            f"{success:.3f}",
            "" if kept is None else f"{kept:.3f}",
            f"{steps:.1f}",
        )
    console.print(table)
    finish(
        "grace",
        ours=single,
        theirs=theirs,
        unit="seconds an edit",
        batched=batched,
        ratio_batched=round(theirs / batched, 3),
        cpu_ratio=round(median(sides[0].cpu) / median(sides[1].cpu), 3),
        cpu_ratio_batched=round(median(sides[0].cpu) / median(sides[2].cpu), 3),
        scores={side.name: side.scores for side in sides},
        edits=len(bench.requests),
        batch=given.batch,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
