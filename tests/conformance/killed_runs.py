"""Kill every method's run at several moments, resume it, and compare it with one that was not killed.

``python -m tests.conformance.killed_runs FOLDER`` prints JSON: for each case, how many runs were killed, and in which
results they differ.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong import Probe, get_plugins, run_consecutive, run_lifelong
from tests.conformance.method_cases import CASES, REQUESTS, MethodCase, example_plugin, write_inputs
from tests.support import run_killer
from tests.support.tiny_models import build_model, build_tokenizer

KILLS = (0.3, 0.6, 0.9)
"""When runs are killed, as fractions of the calls that write to the disk or edit."""


def run(case: MethodCase, out: Path, resume: bool, _: Path) -> Any:
    """Run a method's loop over the requests, in batches of two if it takes batches."""
    options: dict[str, Any] = {
        "out": out,
        "resume": resume,
        "retention": [Probe("the river", "London")],
        "eval_every": 1,
    }
    hparams = case.hparams()
    if case.method.batchable:
        return run_consecutive(build_model("llama"), build_tokenizer(), REQUESTS, hparams, batch_size=2, **options)
    return run_lifelong(build_model("llama"), build_tokenizer(), REQUESTS[:3], hparams, **options)


def kill_and_compare(case: MethodCase, folder: Path) -> dict[str, Any]:
    """Return how many of a case's runs were killed, and in which results they differ from an uninterrupted run."""
    name = f"{case.method.name} {case.name}"
    run_killer.METHODS[name] = functools.partial(run, case)
    uninterrupted = run_killer.run_in_fork(name, folder / "uninterrupted", folder)
    assert uninterrupted is not None
    kills, differences = 0, list[Any]()
    for fraction in KILLS:
        out, at = folder / f"{fraction}", max(1, int(fraction * uninterrupted["points"]))
        outcome = run_killer.run_in_fork(name, out, folder, at=at)
        kills += outcome is None
        if outcome is None:
            outcome = run_killer.run_in_fork(name, out, folder, resume=(out / "config.yaml").exists())
        assert outcome is not None
        for key, expected in uninterrupted.items():
            if key != "points" and outcome[key] != expected:
                differences.append([fraction, key])
    return {"kills": kills, "differing": differences}


def main(folder: Path) -> None:
    """Kill and resume every method's runs."""
    torch.set_num_threads(1)
    os.chdir(write_inputs(folder))
    get_plugins().add(example_plugin(), "biasedit")
    report = {}
    for case in CASES:
        if case.resumable:
            case.edited()  # computes second moments
            (folder / case.name).mkdir()
            report[case.name] = kill_and_compare(case, folder / case.name)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
