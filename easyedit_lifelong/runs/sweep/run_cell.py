"""Run one cell of a sweep: the function that all launchers call, in the process that they choose."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

from easyedit_lifelong.errors import reason_of
from easyedit_lifelong.models.load import load_from_hparams
from easyedit_lifelong.runs.comparison import plan_run
from easyedit_lifelong.runs.execute import execute
from easyedit_lifelong.runs.experiment import Experiment
from easyedit_lifelong.runs.inputs import read_inputs


@dataclass(frozen=True)
class CellJob:
    """What another process, possibly on another machine, needs to run a cell.

    Attributes:
        name: the name of the cell.
        experiment: its settings.
        folder: its folder.
        log: the file of its messages.
        working_folder: the folder that relative paths in the settings start from.
    """

    name: str
    experiment: Experiment
    folder: Path
    log: Path
    working_folder: Path


RunCell = Callable[[CellJob], None]
"""Runs a cell, or raises what made it fail."""


def run_cell(job: CellJob) -> None:
    """Run a cell, or what is left of it; do nothing if it is finished.

    Raises:
        LifelongError: a setting, the data, the model or the folder can't be used.
    """
    run = plan_run(job.name, job.experiment, job.folder)
    if run.finished:  # by a process that died before it could report this
        return
    inputs = read_inputs(run.plan.experiment, run.plan.seed)
    model, tokenizer = load_from_hparams(run.plan.hparams)
    execute(run.plan, inputs, model, tokenizer)


def outcome_of(run: RunCell, job: CellJob, threads: int | None = None) -> str | None:
    """Run a cell in this process, and turn an error into the reason why the cell failed.

    Args:
        run: the function that runs it.
        job: the cell.
        threads: the number of threads that torch may use; None for its default.

    Returns:
        None if the cell is finished, else the reason in one line; the log then has the traceback.
    """
    try:
        os.chdir(job.working_folder)
        if threads is not None:
            torch.set_num_threads(threads)
        run(job)
    except Exception as error:  # whatever goes wrong in one cell must not stop the others
        with contextlib.suppress(OSError), open_log(job.log) as log:
            traceback.print_exc(file=log)
        return reason_of(error)
    return None


def open_log(path: Path) -> TextIO:
    """Open the log of a cell, to append to it; make its folder if it does not exist.

    Raises:
        OSError: the file can't be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8", errors="replace")
