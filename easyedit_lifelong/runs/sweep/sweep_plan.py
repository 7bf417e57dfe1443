"""The cells of a sweep, and its folder: everything is checked that can be checked without a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.errors import HyperParameterError, LifelongError, RunError
from easyedit_lifelong.hparams_files import hparams_defaults, hparams_values
from easyedit_lifelong.runs.compared_methods import COMPARISON_FILE, MethodComparison, experiments_by_label
from easyedit_lifelong.runs.comparison import ComparedRun, plan_run
from easyedit_lifelong.runs.comparison_settings import config_of, read_settings
from easyedit_lifelong.runs.experiment import Experiment, Inputs
from easyedit_lifelong.runs.inputs import read_inputs
from easyedit_lifelong.runs.plan import Plan
from easyedit_lifelong.runs.run_config import loop_settings
from easyedit_lifelong.runs.run_folder import CONFIG, JOURNAL, SCHEMA_VERSION, SUMMARY, check_free
from easyedit_lifelong.runs.setting_changes import NOT_COMPARED, setting_changes
from easyedit_lifelong.runs.sweep.sweep_grid import Grid
from easyedit_lifelong.write_errors import translated_write_errors

SWEEP_FILE, CELLS, LOGS = "sweep.yaml", "cells", "logs"
"""The file with the settings of all cells, the folder of their runs, and the folder of their logs."""

_MAY_DIFFER = tuple(name for name in NOT_COMPARED if name != "hparams.model_name.")
"""A finished cell isn't compared with its model's weights, so the name of the model must not differ."""

_DATA = ("data.", "retention.", "text.", "capability.")
_MAY_DIFFER_FROM_RUN = (
    *(name for name in _MAY_DIFFER if name not in _DATA),
    "data.name.",
    "data.path.",
    "schema_version.",
    "model.",
    "recorded.",
)
"""The same for a cell that is compared with its ``config.yaml``. The digest of requests in that file depends on the
tokenizer, so the digest of the data's file and the numbers of records are compared instead."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        method: the label of its method.
        model: the label of its model.
        data: the label of its data.
        seed: its seed.
        run: its run. The label of the run is the name of the cell.
        n_requests: the number of requests that it edits.
    """

    method: str
    model: str
    data: str
    seed: int
    run: ComparedRun
    n_requests: int

    @property
    def name(self) -> str:
        """The name of the cell, which is also the path of its folder below the sweep's folder of cells."""
        return self.run.label

    def n_done(self) -> int:
        """Return the number of requests that the cell has processed so far, given its journal."""
        try:
            return (self.run.folder / JOURNAL).read_bytes().count(b"\n")
        except OSError:
            return 0


@dataclass(frozen=True)
class SweepPlan:
    """A sweep whose settings, data and folders were checked. :func:`plan_sweep` makes it.

    Attributes:
        out: the folder of the sweep.
        cells: the cells.
        config: the settings of each cell, by its name: the entry ``cells`` of ``sweep.yaml``.
    """

    out: Path
    cells: list[Cell]
    config: dict[str, dict[str, Any]]

    @property
    def repeats_records(self) -> bool:
        """Whether a data set has the same records, in the same order, for several seeds."""
        digests = {(cell.data, cell.seed): self.config[cell.name]["recorded"]["requests_sha256"] for cell in self.cells}
        return len({(data, digest) for (data, _), digest in digests.items()}) < len(digests)

    def log_of(self, cell: Cell) -> Path:
        """Return the file of a cell's messages."""
        return self.out / LOGS / f"{cell.name}.log"


def plan_sweep(grid: Grid, out: Path | str) -> SweepPlan:
    """Return the plan of a sweep: check everything that can be checked without the models.

    Cells in ``out`` that are finished stay as they are; cells that were interrupted are to be resumed.

    Args:
        grid: the grid.
        out: the folder of the sweep.

    Raises:
        LifelongError: the data or a method's hyperparameters can't be used, there is no such method, ``out`` holds
            something else, or a cell can't be resumed.
    """
    out = check_free(out, what="run, not a sweep", files=(CONFIG, SUMMARY, COMPARISON_FILE)).absolute()
    cells: list[Cell] = []
    config: dict[str, dict[str, Any]] = {}
    inputs_of: dict[tuple[str, int], Inputs] = {}
    for seed in grid.seeds:
        for model, model_name in grid.models.items():
            experiments = _experiments(grid, model, model_name, seed)
            for data_label, data in grid.data.items():
                for method, of_method in experiments.items():
                    name = f"{method}/{model}/{data_label}/seed-{seed}"
                    experiment = dataclasses.replace(of_method, data=data)
                    run = plan_run(name, experiment, out / CELLS / name)
                    _check_seed(grid, method, run, seed)
                    if (data_label, seed) not in inputs_of:
                        inputs_of[data_label, seed] = _read_inputs(experiment, data_label, seed)
                    inputs = inputs_of[data_label, seed]
                    cells.append(Cell(method, model, data_label, seed, run, len(inputs.requests)))
                    config[name] = _cell_config(run, inputs)
    return SweepPlan(out, cells, config)


def write_settings(plan: SweepPlan) -> None:
    """Write the settings of all cells into the sweep's folder, beside those of cells that only the folder has.

    Raises:
        RunError: the folder holds a cell of this name with other settings; or the file can't be read or written.
    """
    file = plan.out / SWEEP_FILE
    stored = _stored_cells(file)
    changes: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.run.begun:  # others have no results yet, so their settings may change
            found = _changes(cell, stored.get(cell.name), plan.config[cell.name])
            changes |= {cell.name: found} if found else {}
    if changes:
        name, found = next(iter(changes.items()))
        others = f" Other cells that differ: {len(changes) - 1}." if len(changes) > 1 else ""
        raise RunError(
            f"{plan.out}: holds a sweep with other settings. {name}: {'; '.join(found)}.{others} Choose what it began "
            "with, or another folder with --out. Methods, models, data and seeds can be added."
        )
    content = {"schema_version": SCHEMA_VERSION, "cells": {**stored, **plan.config}}
    with translated_write_errors(file):
        write_text_atomically(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _experiments(grid: Grid, model: str, model_name: str, seed: int) -> dict[str, Experiment]:
    """Return the experiment of each method for one model and seed, by the method's label.

    Raises:
        HyperParameterError: hyperparameters can't be used.
        PluginError: there is no such method.
    """
    overrides = {**grid.settings.overrides, "model_name": model_name, "seed": seed}
    shared = dataclasses.replace(grid.settings, overrides=overrides)
    return experiments_by_label(MethodComparison(shared, grid.methods[model]))


def _check_seed(grid: Grid, method: str, run: ComparedRun, seed: int) -> None:
    """Raise a HyperParameterError if a method can't have the seed of its cell: another one would be in the results."""
    if run.plan.seed != seed:
        raise HyperParameterError(
            f"{grid.file}, seeds: {method} has no seed, which counts as {run.plan.seed}, so it can't run with seed "
            f"{seed}. Use 'seeds: [{run.plan.seed}]', or leave the method out."
        )


def _read_inputs(experiment: Experiment, label: str, seed: int) -> Inputs:
    """Read the data of a cell; raise a LifelongError whose message has the label of the data."""
    try:
        return read_inputs(experiment, seed)
    except LifelongError as error:
        raise RunError(f"data {label}: {error}") from error


def _cell_config(run: ComparedRun, inputs: Inputs) -> dict[str, Any]:
    """Return the settings of a cell, in the form of an experiment file."""
    experiment = run.plan.experiment
    return {
        "loop": experiment.loop,
        "hparams": hparams_values(run.plan.hparams),
        **config_of(experiment, inputs),
        "only_errors": experiment.only_errors,
    }


def _stored_cells(file: Path) -> dict[str, Any]:
    """Return the settings of the cells that ``sweep.yaml`` has, by name; empty if there is no such file.

    Raises:
        RunError: the file can't be read.
    """
    if not file.is_file():
        return {}
    cells = read_settings(file, "the settings of a sweep").get("cells")
    if not isinstance(cells, dict):
        raise RunError(
            f"{file}: 'cells' is not a mapping from cells to their settings. Choose another folder with --out, or "
            "delete the file: then the settings are read from the folders of the cells."
        )
    return cells


def _changes(cell: Cell, stored: Any, present: Mapping[str, Any]) -> list[str]:
    """Return the settings of a cell that differ from those that it began with.

    Args:
        cell: a cell that has begun.
        stored: its settings in ``sweep.yaml``; None if the file lacks it. Then its ``config.yaml`` is compared.
        present: its present settings, in the form of ``sweep.yaml``.

    Raises:
        RunError: ``config.yaml`` can't be read.
    """
    may_differ = _MAY_DIFFER
    written = stored if isinstance(stored, dict) else {}
    if stored is None:
        written = read_settings(cell.run.folder / CONFIG, "the settings of a run")
        present, may_differ = _run_settings(cell.run.plan, present, written), _MAY_DIFFER_FROM_RUN
    if isinstance(hparams := written.get("hparams"), dict):  # a file of an older release can lack some
        written = {**written, "hparams": {**hparams_defaults(cell.run.plan.hparams), **hparams}}
    return setting_changes(written, present, may_differ)


def _run_settings(plan: Plan, settings: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a cell in the form of its ``config.yaml``, in which the defaults are filled in.

    Args:
        plan: the plan of its run.
        settings: its settings in the form of ``sweep.yaml``.
        written: the content of ``config.yaml``, for the default task, which depends on the model.
    """
    of_loops = ("batch_size", "protocol", "skip_unusable", "only_errors")
    return {
        **{name: value for name, value in settings.items() if name not in of_loops},
        **loop_settings(plan),
        "task": settings["task"] or written.get("task"),
        "schedule": plan.schedule.to_dict(),
    }
