"""Compare the optimisers of GRACE's values: seconds, steps and scores of the same edits by Adam and by L-BFGS.

    python benchmarks/grace_optimiser.py [--hparams GRACE/smollm2-135m-subject] [--data FILE --offset N --edits 20]

Both sides edit the same requests alternately in one process, from the unedited model.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from typing import Any

from _machine import alternate, describe, finish, machine, median, stop
from rich.console import Console
from rich.table import Table

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, load_model, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import FOLDER
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.config import ADAM, LBFGS
from easyedit_lifelong.runs.hyperparameter_files import find_method
from easyedit_lifelong.runs.inputs import reader_of


@dataclasses.dataclass
class Side:
    """The measurements of one optimiser, one entry for each run; ``cpu`` counts all threads of this process."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    steps: float = 0.0
    learned: float = 0.0
    reliability: float = 0.0
    generality: float = 0.0


def edit(
    side: Side, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams, batch: int
) -> None:
    """Edit all requests, ``batch`` in each call; add the measurements to a side, and roll all edits back."""
    began, began_cpu = time.perf_counter(), time.process_time()
    rollbacks = []
    for start in range(0, len(requests), batch):
        _, rollback = apply_grace_to_model(model, tokenizer, requests[start : start + batch], hparams)
        rollbacks.append(rollback)
    side.seconds.append((time.perf_counter() - began) / len(requests))
    side.cpu.append((time.process_time() - began_cpu) / len(requests))
    results = [result for rollback in rollbacks for result in rollback.results]
    side.steps = sum(result.steps for result in results) / len(results)
    side.learned = sum(result.learned for result in results) / len(results)
    scorer = Scorer(tokenizer)
    asked = [(request.prompt, request.target_new) for request in requests]
    side.reliability = _accuracy(scorer, model, asked)
    side.generality = _accuracy(scorer, model, [(p, r.target_new) for r in requests for p in r.rephrase_prompts])
    for rollback in reversed(rollbacks):
        rollback()


def _accuracy(scorer: Scorer, model: Any, asked: Sequence[tuple[str, str]]) -> float:
    answers = scorer.forced(model, asked)
    return sum(answer.accuracy for answer in answers) / max(1, len(answers))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default=str(FOLDER / "counterfact.json"), help="dataset file (default: sample facts)")
    add("--offset", type=int, default=0, help="skip this many records (default 0)")
    add("--hparams", default="GRACE/smollm2-135m-subject", help="hyperparameter file or shipped name")
    add("--edits", type=int, default=20, help="how many records to edit (default 20)")
    add("--batch", type=int, default=1, help="edits in each call (default 1)")
    add("--runs", type=int, default=3, help="runs of each side (default 3)")
    given = parser.parse_args(arguments)
    try:
        hparams = GraceHyperParams.from_hparams(given.hparams)
        read = reader_of(given.data, None).read
        requests = list(read_requests(given.data, read, limit=given.offset + given.edits))[given.offset :]
        model, tokenizer = load_model(hparams.model_name, "cpu")
        prepare = find_method(hparams).prepare
        if prepare is not None:
            prepare(model, tokenizer, hparams, None)
    except LifelongError as error:
        return stop(error)
    sides = {ADAM: Side(), LBFGS: Side()}

    def run(name: str, _: int) -> None:
        chosen = dataclasses.replace(hparams, optimizer=name)
        edit(sides[name], model, tokenizer, requests, chosen, given.batch)

    edit(Side(), model, tokenizer, requests[:1], hparams, 1)  # untimed
    alternate(given.runs, *(functools.partial(run, name) for name in sides))
    console = Console()
    console.print(describe(machine()))
    table = Table("optimizer", "s an edit", "CPU s", "steps", "learned", "reliability", "generality")
    for name, side in sides.items():
        figures = (median(side.seconds), median(side.cpu))
        scores = (side.learned, side.reliability, side.generality)
        table.add_row(name, *(f"{x:.3f}" for x in figures), f"{side.steps:.1f}", *(f"{x:.3f}" for x in scores))
    console.print(table)
    finish(
        "grace_optimiser",
        ours=median(sides[LBFGS].seconds),
        theirs=median(sides[ADAM].seconds),
        unit="seconds an edit: limited-memory BFGS (ours), Adam (theirs)",
        sides={name: dataclasses.asdict(side) for name, side in sides.items()},
        edits=len(requests),
        batch=given.batch,
        hparams=given.hparams,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
