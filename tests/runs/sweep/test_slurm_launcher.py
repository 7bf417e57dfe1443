"""Cells as jobs of submitit: with its local executor; and what a batch script asks of Slurm."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from easyedit_lifelong.errors import HyperParameterError, RunError
from tests.support.sweep_jobs import assert_equal_runs, cell_job, failures_of

submitit = pytest.importorskip("submitit")
launcher = pytest.importorskip("easyedit_lifelong.runs.sweep.slurm_launcher")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands of Slurm; ``sbatch`` keeps the script that it gets."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in {"srun": "", "sbatch": f"cp $1 {tmp_path}/submitted; echo Submitted batch job 12"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path / "submitted"


def test_a_cell_runs_as_a_job(tmp_path: Path, checkpoint: Path, whole_run: Path) -> None:
    job = cell_job(tmp_path, checkpoint, "cell")
    assert failures_of(launcher.SlurmLauncher(submitit.LocalExecutor(tmp_path / "jobs")), [job]) == {"cell": None}
    assert_equal_runs(job.folder, whole_run)


def test_a_job_that_ends_without_a_result_is_a_failed_cell(tmp_path: Path, checkpoint: Path) -> None:
    """A job whose node dies has no outcome."""

    def result() -> None:
        raise submitit.core.utils.UncompletedJobError("no output")

    lost = SimpleNamespace(
        done=lambda: True, result=result, job_id="12_0", state="NODE_FAIL", paths=SimpleNamespace(stderr="12.err")
    )
    executor = SimpleNamespace(batch=nullcontext, submit=lambda *_: lost)
    failures = failures_of(launcher.SlurmLauncher(executor), [cell_job(tmp_path, checkpoint, "lost")])
    assert failures == {"lost": "its job 12_0 ended as NODE_FAIL; 12.err has its messages"}


def test_parameters_of_the_grid_are_in_the_batch_script(tmp_path: Path, slurm: Path) -> None:
    parameters = {"partition": "gpu", "time": 90, "gpus": 1, "mem": "16GB"}
    executor = launcher.slurm_executor(parameters, tmp_path / "jobs", "grid")
    with executor.batch():
        executor.submit(print)
    lines = slurm.read_text().splitlines()
    expected = {"--partition=gpu", "--time=90", "--gpus-per-node=1", "--mem=16GB", "--job-name=sweep"}
    assert expected <= {line.removeprefix("#SBATCH ") for line in lines}


def test_an_unknown_parameter_is_refused_with_the_known_ones(tmp_path: Path, slurm: Path) -> None:
    with pytest.raises(HyperParameterError, match=r"^grid\.yaml, slurm: .*'partitoin'.*partition.*max_num_timeout"):
        launcher.slurm_executor({"partitoin": "gpu", "time": 60}, tmp_path / "jobs", "grid.yaml, slurm")


def test_a_job_is_submitted_again_as_often_as_the_grid_says(tmp_path: Path, slurm: Path) -> None:
    for given, expected in (({}, 3), ({"max_num_timeout": 0}, 0), ({"max_num_timeout": 20}, 20)):
        executor = launcher.slurm_executor({"time": 60, **given}, tmp_path / "jobs", "grid")
        assert executor.max_num_timeout == expected


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mem": "8GB"}, "time: missing. Set the time limit"),
        ({"time": "1-00:00"}, "time: '1-00:00' is not a whole number of at least 1"),
        ({"time": 0}, "time: 0 is not a whole number of at least 1"),
        ({"time": 60, "max_num_timeout": -1}, "max_num_timeout: -1 is not a whole number of at least 0"),
    ],
)
def test_time_limits_are_checked(tmp_path: Path, slurm: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperParameterError, match=f"^grid, slurm.{re.escape(message)}"):
        launcher.slurm_executor(parameters, tmp_path / "jobs", "grid, slurm")


def test_jobs_that_slurm_refuses_are_an_error(tmp_path: Path, checkpoint: Path, slurm: Path) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    executor = launcher.slurm_executor({"time": 60}, tmp_path / "jobs", "grid")
    with pytest.raises(RunError, match=r"sbatch refuses the jobs: .*invalid partition"):
        failures_of(launcher.SlurmLauncher(executor), [cell_job(tmp_path, checkpoint, "cell")])


def test_a_machine_without_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"no `srun` here"):
        launcher.slurm_executor({"time": 60}, tmp_path / "jobs", "grid")
    assert not (tmp_path / "jobs").exists()
