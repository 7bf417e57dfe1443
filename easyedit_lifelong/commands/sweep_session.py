"""Execute a sweep: check everything, run the cells that aren't finished, write the page and the tables."""

from __future__ import annotations

import importlib.util
from contextlib import closing
from pathlib import Path

import torch

from easyedit_lifelong.commands.options.sweep import PROCESSES, RAY, SLURM
from easyedit_lifelong.commands.sweep_report import write_sweep_report
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.comparison_console import print_tables
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.sweep_progress import sweep_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.sweep.launcher import Launcher
from easyedit_lifelong.runs.sweep.process_launcher import ProcessLauncher
from easyedit_lifelong.runs.sweep.run_cell import CellJob
from easyedit_lifelong.runs.sweep.sweep_grid import Grid
from easyedit_lifelong.runs.sweep.sweep_plan import SweepPlan, write_settings

_PACKAGES = {RAY: "ray", SLURM: "submitit"}


def run_sweep(grid: Grid, plan: SweepPlan, launcher_name: str = PROCESSES, workers: int = 1) -> int:
    """Run the cells of a sweep that aren't finished, and write the page that compares all of them.

    A cell that fails is reported; the others still run.

    Args:
        grid: the grid.
        plan: the plan of its cells.
        launcher_name: one of :data:`LAUNCHERS`.
        workers: how many local processes run at a time.

    Returns:
        The exit code: 0, or 1 if a cell failed.

    Raises:
        LifelongError: the folder or the launcher can't be used.
    """
    launcher = _launcher(launcher_name, workers, grid, plan.out)
    console = Console()
    with locked_folder(plan.out, work="running this sweep"):
        write_settings(plan)
        failures = _run_cells(console, plan, launcher)
        _report(console, plan, failures)
    return 1 if failures else 0


def check_installed(launcher_name: str) -> None:
    """Raise a PluginError if a launcher needs a package that is not installed."""
    package = _PACKAGES.get(launcher_name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise PluginError(
            f"--launcher {launcher_name} needs {package}: pip install 'easyedit-lifelong[{launcher_name}]'"
        )


def _launcher(name: str, workers: int, grid: Grid, out: Path) -> Launcher:
    """Return the launcher of a name; the modules of Ray and submitit are imported only if they are used.

    Raises:
        LifelongError: it can't be used on this machine, or with the settings of the grid.
    """
    if name == RAY:
        from easyedit_lifelong.runs.sweep.ray_launcher import RayLauncher

        return RayLauncher(grid.ray)
    if name == SLURM:
        from easyedit_lifelong.runs.sweep.slurm_launcher import SlurmLauncher, slurm_executor

        return SlurmLauncher(slurm_executor(grid.slurm, out / SLURM, f"{grid.file}, {SLURM}"))
    return ProcessLauncher(workers, max(1, torch.get_num_threads() // workers))


def _run_cells(console: Console, plan: SweepPlan, launcher: Launcher) -> dict[str, str]:
    """Run the cells that aren't finished; return the reasons of those that failed, by name."""
    pending = [cell for cell in plan.cells if not cell.run.finished]
    n_begun = sum(cell.run.begun for cell in pending)
    n_requests = sum(cell.n_requests for cell in pending)
    print_line(
        console,
        f"Cells: {len(plan.cells) - len(pending)} finished earlier, {n_begun} to resume, {len(pending) - n_begun} to "
        f"begin. Requests: {n_requests}",
    )
    if pending and plan.repeats_records:
        print_line(console, "Seeds edit the same records, unless their data have 'shuffle: true' (docs/sweep.md).")
    jobs = [
        CellJob(cell.name, cell.run.plan.experiment, cell.run.folder, plan.log_of(cell), Path.cwd()) for cell in pending
    ]
    failures = {}
    with sweep_progress(console, plan.cells, pending) as progress, closing(launcher.launch(jobs)) as ends:
        for end in ends if jobs else ():
            if end is not None:
                progress.ended(end.name, end.failure)
                if end.failure is not None:
                    failures[end.name] = end.failure
            progress.update()
    return failures


def _report(console: Console, plan: SweepPlan, failures: dict[str, str]) -> None:
    """Write the page and the tables of all finished cells; print the tables, the failures and the files."""
    warnings = [f"{name} failed: {reason}" for name, reason in failures.items()]
    report = write_sweep_report(plan, warnings)
    if report is not None:
        print_tables(console, report.tables)
        print_line(console, f"\nPage: {report.page}\nTables: {', '.join(map(str, report.files))}")
    logs = {cell.name: plan.log_of(cell) for cell in plan.cells}
    for name, reason in failures.items():
        log = f" (log: {logs[name]})" if logs[name].is_file() else ""  # a killed worker of Ray or Slurm writes none
        print_line(console, f"{name} failed: {reason}{log}")
    if failures:
        print_line(
            console,
            f"{len(failures)} of {counted(len(plan.cells), 'cell')} failed. The same command runs them again, and "
            "leaves finished cells as they are.",
        )
