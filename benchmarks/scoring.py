"""Compare teacher-forced scoring by EasyEdit's ``compute_edit_quality`` and by ours: seconds a request.

    python benchmarks/scoring.py [--data counterfact.json] [--requests 500]

Both sides score each request's prompt, paraphrase and locality prompt on the same unedited model, alternately in one
process; the scores must be equal. EasyEdit scores one question at a time, as its editor does.
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

import numpy as np
from _machine import alternate, describe, finish, machine, median, stop
from rich.console import Console
from rich.table import Table

from easyedit_lifelong import load_model, read_requests
from easyedit_lifelong.bridge import find_easyedit, install
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import FOLDER
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.questions import Questions
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.runs.inputs import reader_of

Answers = dict[str, list[list[Any]]]
"""By metric and request, the accuracies of the questions; for locality, the predicted tokens."""


def record_of(request: EditRequest) -> dict[str, Any]:
    """Return a request in EasyEdit's own fields."""
    record: dict[str, Any] = {"prompt": request.prompt, "target_new": request.target_new, "ground_truth": ""}
    if request.rephrase_prompts:
        record["rephrase_prompt"] = request.rephrase_prompts[0]
    record["locality"] = {
        name: {"prompt": probes[0].prompt, "ground_truth": probes[0].answer}
        for name, probes in request.locality.items()
    }
    return record


def theirs(compute: Callable[..., dict[str, Any]], model: Any, tokenizer: Any, requests: list[EditRequest]) -> Answers:
    """Score with EasyEdit's function."""
    hparams = SimpleNamespace(alg_name="FT", model_name="smollm2", max_length=512, device="cpu")
    answers: Answers = {"reliability": [], "generality": [], "locality": []}
    for request in requests:
        scores = compute(model, "smollm2", hparams, tokenizer, record_of(request), "cpu")
        answers["reliability"].append([float(np.mean(scores["rewrite_acc"]))])
        answers["generality"].append([float(np.mean(scores["rephrase_acc"]))] if "rephrase_acc" in scores else [])
        answers["locality"].append([np.ravel(tokens).tolist() for tokens in scores["locality"].values()])
    return answers


def ours(model: Any, tokenizer: Any, requests: list[EditRequest]) -> Answers:
    """Score with our scorer, without anything cached from earlier runs."""
    questions = [Questions.about([request]) for request in requests]
    scores = iter(Scorer(tokenizer).forced(model, [question for group in questions for question in group.all()]))
    answers: Answers = {"reliability": [], "generality": [], "locality": []}
    for group in questions:
        answers["reliability"].append([next(scores).accuracy for _ in group.edit])
        answers["generality"].append([next(scores).accuracy for _ in group.rephrase])
        answers["locality"].append([list(next(scores).chosen) for _ in group.locality])
        for _ in group.portability:
            next(scores)
    return answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(FOLDER / "counterfact.json"), help="dataset file (default: sample facts)")
    parser.add_argument("--requests", type=int, default=500, help="how many requests to score, at most (default 500)")
    parser.add_argument("--model", default="smollm2-135m", help="model name or folder (default smollm2-135m)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default 3)")
    parser.add_argument("--upstream", type=Path, help="checkout of EasyEdit (default: the installed release)")
    given = parser.parse_args(arguments)
    if given.upstream:
        sys.path.insert(0, str(given.upstream))
    if find_easyedit() is None:
        return stop("There is no EasyEdit. Run: pip install --no-deps easyeditor==0.0.1.dev0, or --upstream CHECKOUT")
    install()
    importlib.import_module("easyeditor")
    compute = importlib.import_module("easyeditor.evaluate.evaluate").compute_edit_quality
    try:
        requests = list(read_requests(given.data, reader_of(given.data, None).read))[: given.requests]
        # EasyEdit does not score relation specificity.
        requests = [dataclasses.replace(request, relation_specificity=()) for request in requests]
        model, tokenizer = load_model(given.model, "cpu")
    except LifelongError as error:
        return stop(error)
    return _compare(given, compute, model, tokenizer, requests)


def _compare(given: argparse.Namespace, compute: Any, model: Any, tokenizer: Any, requests: list[EditRequest]) -> int:
    sides: dict[str, tuple[list[float], list[float]]] = {"EasyEdit": ([], []), "ours": ([], [])}
    answers: dict[str, Answers] = {}

    def timed(name: str, score: Callable[[], Answers]) -> Callable[[int], None]:
        def run(_: int) -> None:
            wall, cpu = time.perf_counter(), time.process_time()
            answers[name] = score()
            sides[name][0].append((time.perf_counter() - wall) / len(requests))
            sides[name][1].append((time.process_time() - cpu) / len(requests))

        return run

    theirs(compute, model, tokenizer, requests[:2])
    ours(model, tokenizer, requests[:2])
    alternate(
        given.runs,
        timed("EasyEdit", lambda: theirs(compute, model, tokenizer, requests)),
        timed("ours", lambda: ours(model, tokenizer, requests)),
    )
    same = answers["ours"] == answers["EasyEdit"]
    table = Table("side", "s a request", "CPU s", "reliability", "generality", title=f"{len(requests)} requests")
    for name, (wall, cpu) in sides.items():
        means = [
            np.mean([accuracy for request in answers[name][metric] for accuracy in request])
            for metric in ("reliability", "generality")
        ]
        table.add_row(name, f"{median(wall):.4f}", f"{median(cpu):.4f}", *(f"{value:.4f}" for value in means))
    console = Console()
    console.print(describe(machine()))
    console.print(table)
    console.print("The same scores and locality tokens." if same else "The scores differ.")
    finish(
        "scoring",
        ours=median(sides["ours"][0]),
        theirs=median(sides["EasyEdit"][0]),
        unit="seconds a request",
        cpu_ratio=round(median(sides["EasyEdit"][1]) / median(sides["ours"][1]), 3),
        same=same,
        requests=len(requests),
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
