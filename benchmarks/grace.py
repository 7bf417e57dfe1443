"""Compare EasyEdit's GRACE and ours: seconds an edit, one at a time and in batches.

    python benchmarks/grace.py --upstream PATH_OF_AN_EASYEDIT_CHECKOUT [--data FILE] [--edits 16] [--batch 16]

Both sides edit the same requests in the same order with the same hyperparameters, alternately in one process.
EasyEdit takes all of ``n_iter`` steps for every edit: it reads ``reg: early_stop`` but doesn't stop. Ours stops when
the target is learned; with ``--no-early-stop`` it takes all steps, too.
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
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import FOLDER
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.runs.inputs import reader_of

Measured = tuple[float, float, float, float | None, float]
"""Seconds an edit, CPU seconds an edit, ES, ERR, and steps an edit."""


@dataclasses.dataclass
class Side:
    """The measurements of one side, one entry for each run; ``cpu`` counts all threads of this process.

    Attributes:
        edit: edits the requests on the unedited model, and returns the measurements.
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
    """Both sides of the comparison, on one model and the same requests.

    Args:
        theirs: EasyEdit's module ``models.grace``.
        model: the model; both sides restore it.
        tokenizer: its tokenizer.
        requests: the edits.
        hparams: GRACE's hyperparameters.
    """

    def __init__(
        self, theirs: Any, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams
    ) -> None:
        self.theirs, self.model, self.tokenizer = theirs, model, tokenizer
        self.requests, self.hparams = list(requests), hparams
        self.scorer = Scorer(tokenizer)

    def upstream(self) -> Measured:
        """Edit with EasyEdit's GRACE, one request at a time."""
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
            with torch.no_grad():  # its query position is the last edit's prompt end, which is correct for this prompt
                predicted = editor(**tokens).logits[0, :-1].argmax(dim=-1)
            labels = tokens["labels"][0, 1:]
            success.append(float((predicted == labels)[labels != -100].float().mean()))
        assert undo is not None
        undo()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(before[name])
            parameter.grad = None
        count = len(self.requests)
        return wall / count, cpu / count, sum(success) / count, None, float(self.hparams.n_iter)

    def ours(self, batch: int) -> Measured:
        """Edit with our GRACE, ``batch`` requests in each call."""
        wall = cpu = 0.0
        success: list[float] = []
        steps: list[int] = []
        rollbacks = []
        for start in range(0, len(self.requests), batch):
            requests = self.requests[start : start + batch]
            began, began_cpu = time.perf_counter(), time.process_time()
            _, rollback = apply_grace_to_model(self.model, self.tokenizer, requests, self.hparams)
            wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - began_cpu
            rollbacks.append(rollback)
            steps += [result.steps for result in rollback.results]
            success += [answer.accuracy for answer in self._answers(requests)]
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
    parser.add_argument("--edits", type=int, default=16, help="how many records to edit (default 16)")
    parser.add_argument("--batch", type=int, default=16, help="edits in each call of ours (default 16)")
    parser.add_argument("--upstream-edits", type=int, default=3, help="how many of them EasyEdit makes (default 3)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default 3)")
    parser.add_argument("--no-early-stop", action="store_true", help="our side takes all steps, too")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(given.upstream))
    install()
    try:
        theirs = importlib.import_module("easyeditor.models.grace")
    except ImportError as error:
        return stop(f"{given.upstream}: not a checkout of EasyEdit with GRACE: {error}")
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
