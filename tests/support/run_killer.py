"""Run as a process of its own: kill runs at random moments, for real, take them up, and report how they ended.

One process imports everything once and forks for every run, so that each is killed as a whole process with
``SIGKILL``: at a chosen call that touches the disk or edits, or, by its parent, at a chosen time.
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
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from easyedit_lifelong import atomic, run_consecutive, run_lifelong
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace import editor as grace_editor
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.plugins import get_plugins
from tests.support.tiny_models import FAMILIES, WORDS, build_tokenizer

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
    """Seven facts: one fails, one is known by then, one takes another's key."""
    really = grace_editor.train_batch

    def train(lesson: Any, planned: Any, learners: Any, hparams: Any) -> Any:
        if "moon" in learners[0].identity:
            raise EditError("the loss became nan")
        return really(lesson, planned, learners, hparams)

    grace_editor.train_batch = train
    requests = [
        EditRequest(n, prompt, target, next(one for one in SUBJECTS if one in prompt))
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
    """The same facts, found by their subjects: whitened, with radii of their own, behind gates."""
    from tests.support import subject_edits

    if not (shared / "corpus.txt").exists():
        subject_edits.with_corpus(shared)
    return grace(out, resume, shared, subject_edits.hparams("late", folder=shared, n_iter=20, stop_loss=0.5))


def coachhook(out: Path, resume: bool, shared: Path) -> Any:
    """Four facts, one a batch."""
    from tests.support.coachhook_edits import hparams_for, requests_for

    corpus = shared / "corpus.txt"
    if not corpus.exists():
        draw = random.Random(0)
        corpus.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(50)))
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
    """A model of three blocks: runs take half as long as with the four of the other tests."""
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
        """Count from now on: what is written, renamed and synced, and every edit."""
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
        """Die here, if this is the place."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def outcome(result: Any, points: Points) -> dict[str, Any]:
    """Return all that must not depend on whether a run was cut short."""
    digest = hashlib.sha256()
    for name, tensor in sorted(result.edited_model.state_dict().items()):
        digest.update(name.encode() + tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    editors = grace_editor.GraceEditor.all_of(result.edited_model)
    labels = [editor.codebook.labels for editor in editors.values()]
    summary = {k: v for k, v in result.summary.items() if k not in ("timing", "finished")}

    def lines(name: str) -> list[Any]:
        path = result.folder / name
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [{k: v for k, v in entry.items() if "seconds" not in k} for entry in entries]

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


def forked(
    method: str, out: Path, shared: Path, *, resume: bool = False, at: int | None = None, after: float | None = None
) -> dict[str, Any] | None:
    """Run in a process of its own; return its outcome, or None if it was killed."""
    told = out.with_suffix(".outcome")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            points = Points(at)
            points.watch(method)
            result = METHODS[method](out, resume, shared)
            count = points.count
            points.at = None
            found = outcome(result, points) | {"points": count}
            told.write_text(json.dumps(found))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.waitstatus_to_exitcode(status) == 0, f"{method} in {out} failed"
    return json.loads(told.read_text())


def places(points: int, seconds: float, moments: int, draw: random.Random) -> list[dict[str, Any]]:
    """Return where runs are killed: one call in each of ``moments`` equal parts of a run, and three random times.

    With ``moments`` 0, every call that touches the disk or edits, and ten random times.
    """
    count = moments or points
    calls = [{"at": draw.randint(points * part // count + 1, points * (part + 1) // count)} for part in range(count)]
    return [*calls, *({"after": draw.uniform(0.1, 0.95) * seconds} for _ in range(3 if moments else 10))]


def main(method: str, folder: Path, moments: int) -> None:
    """Kill runs, resume each, and print what differs from a run that was not killed."""
    torch.set_num_threads(1)
    METHODS[method](folder / "warm", False, folder)  # all modules and second moments are there from now on
    began = time.perf_counter()
    whole = forked(method, folder / "whole", folder)
    seconds = time.perf_counter() - began
    assert whole is not None
    draw, killed, wrong = random.Random(20), [], []
    for number, place in enumerate(places(whole["points"], seconds, moments, draw)):
        out = folder / f"run{number}"
        cut = forked(method, out, folder, **place)
        killed.append(cut is None)
        while cut is None:
            # Now and then the run that goes on is killed, too.
            again = {"at": draw.randint(1, whole["points"])} if draw.random() < 0.15 else {}
            cut = forked(method, out, folder, resume=(out / "config.yaml").exists(), **again)
        wrong += [[place, name] for name in whole if name != "points" and cut[name] != whole[name]]
    lines = whole["files"]["journal.jsonl"]
    report = {
        "killed": sum(killed),
        "wrong": wrong,
        "points": whole["points"],
        "seconds": seconds,
        "status": [line["status"] for line in lines],
        "decisions": [line.get("decision") for line in lines],
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
