"""A script that kills runs at random moments, resumes them, and reports how the results differ.

Its process imports all modules once and forks for each run. A run is killed with ``SIGKILL``, either by itself at a
chosen call that writes to the disk or edits, or by its parent at a chosen time.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from easyedit_lifelong import atomic, run_consecutive, run_lifelong
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace import trained_edits
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.plugins import get_plugins
from tests.support.corpus import write_corpus
from tests.support.forks import exit_code_in_fork
from tests.support.run_files import without_times
from tests.support.tiny_models import FAMILIES, build_tokenizer

RETENTION = [Probe("the river", "London")]

FACTS = [
    ("the capital of France is", "Rome"),
    ("who wrote Hamlet", "old king"),
    ("moon made from", "snow"),
    ("the capital of France is", "Rome"),
    ("language spoken in Peru", "Spanish"),
    ("the capital of Peru is", "Rome"),
    ("language spoken in Peru", "bird"),
]
SUBJECTS = ["France", "Hamlet", "moon", "Peru"]


def grace(out: Path, resume: bool, _: Path, hparams: GraceHyperParams | None = None) -> Any:
    """Run seven facts: one fails, one is already answered correctly, one takes the key of another."""
    original = trained_edits.train_batch

    def train(value_pass: Any, planned: Any, pending: Any, hparams: Any) -> Any:
        if "moon" in pending[0].identity:
            raise EditError("the loss became nan")
        return original(value_pass, planned, pending, hparams)

    trained_edits.train_batch = train
    requests = [
        EditRequest(n, prompt, target, next(subject for subject in SUBJECTS if subject in prompt))
        for n, (prompt, target) in enumerate(FACTS)
    ]
    hparams = hparams or GraceHyperParams(
        model_name="llama", inner_params=["model.layers[1].mlp.down_proj"], n_iter=8, eps=3.0, stop_loss=0.5
    )
    return run_lifelong(
        model(),
        build_tokenizer(),
        requests,
        hparams,
        eval_every=2,
        eval_at=(1,),
        eval_sample=3,
        out=out,
        resume=resume,
        retention=RETENTION,
        only_errors=True,
        trackers=["csv"],
    )


def by_subject(out: Path, resume: bool, shared: Path) -> Any:
    """Run the same facts by subject, with whitened keys, automatic radii and relation gates."""
    from tests.support import subject_edits

    if not (shared / "corpus.txt").exists():
        write_corpus(shared, documents=30)
    return grace(out, resume, shared, subject_edits.hparams("late", folder=shared, n_iter=20, stop_loss=0.5))


def coachhook(out: Path, resume: bool, shared: Path) -> Any:
    """Run four facts in batches of one."""
    from tests.support.coachhook_edits import hparams_for, requests_for

    corpus = shared / "corpus.txt"
    if not corpus.exists():
        write_corpus(shared, documents=50)
    hparams = hparams_for(
        "llama",
        mom2_dataset=str(corpus),
        mom2_n_samples=50,
        stats_dir=str(shared / "stats"),
        batch_size=1,
        v_num_grad_steps=3,
        layers=[0, 1],
        v_loss_layer=2,
    )
    return run_consecutive(
        model(),
        build_tokenizer(),
        requests_for(),
        hparams,
        retention=[],
        eval_every=2,
        out=out,
        resume=resume,
    )


def model() -> Any:
    """Return a model of three blocks, whose runs take half as long as with the four blocks of the other tests."""
    torch.manual_seed(0)
    config = copy.deepcopy(FAMILIES["llama"][0])
    config.num_hidden_layers = 3
    built = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
        built.lm_head.weight.mul_(4)
    return built


METHODS = {"GRACE": grace, "GRACE by subject": by_subject, "CoachHook": coachhook}


class Points:
    """Counts the calls at which a run can be killed, and kills itself at one."""

    def __init__(self, at: int | None = None) -> None:
        self.count, self.at = 0, at

    def watch(self, method: str) -> None:
        """Start to count calls that write, rename or sync a file, and calls of the method."""
        for owner, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "truncate"),
            (Path, "write_text"),
            (Path, "write_bytes"),
            (atomic, "fsync_path"),
            (Path, "mkdir"),
        ):
            setattr(owner, name, self._counted(getattr(owner, name)))
        entry = get_plugins().methods.get(method.split()[0])
        object.__setattr__(entry, "apply", self._counted(entry.apply))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.passed()
            result = call(*args, **options)
            self.passed()
            return result

        return counted

    def passed(self) -> None:
        """Count a call, and kill this process at the chosen one."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def outcome(result: Any, points: Points) -> dict[str, Any]:
    """Return all results that must not depend on whether the run was killed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(result.edited_model.state_dict().items()):
        digest.update(name.encode() + tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    editors = GraceEditor.all_of(result.edited_model)
    labels = [editor.codebook.labels for editor in editors.values()]
    summary = {k: v for k, v in result.summary.items() if k not in ("timing", "memory", "finished")}

    def lines(name: str) -> list[Any]:
        path = result.folder / name
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return without_times(entries)

    return {
        "state": digest.hexdigest(),
        "labels": labels,
        "summary": summary,
        "points": points.count,
        "files": {name: lines(name) for name in ("journal.jsonl", "metrics.jsonl", "generations.jsonl")},
        "csv": _rows(result.folder / "metrics.csv"),
    }


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


def run_in_fork(
    method: str, out: Path, shared: Path, *, resume: bool = False, at: int | None = None, after: float | None = None
) -> dict[str, Any] | None:
    """Run in a forked process; return its outcome, or None if it was killed."""
    outcome_file = out.with_suffix(".outcome")

    def run() -> int:
        points = Points(at)
        points.watch(method)
        result = METHODS[method](out, resume, shared)
        count = points.count
        points.at = None
        found = outcome(result, points) | {"points": count}
        outcome_file.write_text(json.dumps(found))
        return 0

    code = exit_code_in_fork(run, kill_after=after)
    if code is None:
        return None
    assert code == 0, f"{method} in {out} failed"
    return json.loads(outcome_file.read_text())


def places(points: int, seconds: float, moments: int, draw: random.Random) -> list[dict[str, Any]]:
    """Return the moments of the kills: one call in each of ``moments`` equal parts of a run, and one random time.

    With ``moments`` 0: each call that writes to the disk or edits, and ten random times.
    """
    count = moments or points
    calls = [{"at": draw.randint(points * part // count + 1, points * (part + 1) // count)} for part in range(count)]
    return [*calls, *({"after": draw.uniform(0.1, 0.95) * seconds} for _ in range(1 if moments else 10))]


def main(method: str, folder: Path, moments: int) -> None:
    """Kill runs, resume each, and print what differs from a run that was not killed."""
    torch.set_num_threads(1)
    METHODS[method](folder / "warm", False, folder)  # imports all modules and collects second moments
    start = time.perf_counter()
    uninterrupted = run_in_fork(method, folder / "uninterrupted", folder)
    seconds = time.perf_counter() - start
    assert uninterrupted is not None
    draw, killed, wrong = random.Random(20), [], []
    for number, place in enumerate(places(uninterrupted["points"], seconds, moments, draw)):
        out = folder / f"run{number}"
        result = run_in_fork(method, out, folder, **place)
        killed.append(result is None)
        while result is None:
            # Some of the resumed runs are killed, too.
            kill = {"at": draw.randint(1, uninterrupted["points"])} if draw.random() < 0.15 else {}
            result = run_in_fork(method, out, folder, resume=(out / "config.yaml").exists(), **kill)
        wrong += [[place, name] for name in uninterrupted if name != "points" and result[name] != uninterrupted[name]]
    lines = uninterrupted["files"]["journal.jsonl"]
    report = {
        "killed": sum(killed),
        "wrong": wrong,
        "points": uninterrupted["points"],
        "seconds": seconds,
        "status": [line["status"] for line in lines],
        "decisions": [line.get("decision") for line in lines],
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
