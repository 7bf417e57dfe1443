"""Cells on a Ray of this machine: a killed worker, whose cell is started again and resumes; failures; addresses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs.sweep.launcher import CellEnd
from easyedit_lifelong.runs.sweep.ray_launcher import RayLauncher, _check_enough, _failure
from easyedit_lifelong.runs.sweep.ray_resources import RayResources
from tests.support.sweep_jobs import KILLED, assert_equal_runs, cell_job, kill_once

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


# Ray is not imported here: its address depends on the environment that it is imported with.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


def listening_addresses() -> set[str]:
    """Return the addresses at which this process and its descendants listen."""
    import psutil  # Ray brings it

    addresses: set[str] = set()
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            connections = process.net_connections(kind="inet")
        except psutil.Error:  # it has ended
            continue
        addresses |= {found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN}
    return addresses


def test_a_cell_whose_worker_is_killed_is_started_again_and_resumes(
    tmp_path: Path, checkpoint: Path, whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")  # counts as none
    jobs = [cell_job(tmp_path, checkpoint, name) for name in (KILLED, "other")]
    ends, addresses = [], set[str]()
    for end in RayLauncher(RayResources(cpus=1, retries=1), kill_once).launch(jobs):
        ends += [end] if isinstance(end, CellEnd) else []
        addresses = addresses or listening_addresses()
    assert addresses and addresses <= LOOPBACK
    assert sorted(ends, key=lambda end: end.name) == [CellEnd(KILLED, None), CellEnd("other", None)]
    assert (tmp_path / f"{KILLED}-before").exists()
    for job in jobs:
        assert_equal_runs(job.folder, whole_run)


def test_the_reason_of_a_lost_cell_names_what_its_worker_raised() -> None:
    """Such an error is raised before the cell begins. Ray's own message starts with the worker, in colour."""

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        cause = ModuleNotFoundError("No module named 'my_plugin'")

    def failure(error: RayError) -> str | None:
        def get(reference: object) -> None:
            raise error

        exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        return _failure(SimpleNamespace(get=get, exceptions=exceptions), object())

    of_task = failure(RayTaskError("\x1b[36mray::cell()\x1b[39m (pid=1)\n  File ...\nModuleNotFoundError: ..."))
    assert of_task == "its Ray worker failed: ModuleNotFoundError: No module named 'my_plugin'"
    assert failure(RayError("\nThe node died.\nMore ...")) == "its Ray worker failed: The node died."


def ray_with(*nodes: dict[str, float]) -> SimpleNamespace:
    """Return a stub of Ray with nodes."""
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])


def test_a_cell_that_needs_more_than_this_machine_has_is_refused() -> None:
    machine = ray_with({"CPU": 2.0})
    _check_enough(machine, RayResources(cpus=2), None)
    with pytest.raises(RunError, match=r"needs 1 CPUs and 1 GPUs, and this machine has 2 CPUs and 0 GPUs\. Lower ray"):
        _check_enough(machine, RayResources(gpus=1), None)


def test_a_cell_that_no_node_of_a_cluster_can_hold_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Two nodes have enough only together; a node that ended does not count."""
    cluster = ray_with({"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0})
    lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    nodes = [*cluster.nodes(), lost]
    cluster.nodes = lambda: nodes
    _check_enough(cluster, RayResources(cpus=2, gpus=1), "10.0.0.1:6379")
    assert not caplog.messages
    _check_enough(cluster, RayResources(cpus=4, gpus=1), "10.0.0.1:6379")
    (message,) = caplog.messages
    assert "no node of 10.0.0.1:6379 has that many (nodes: 4 CPUs and 0 GPUs; 2 CPUs and 1 GPUs)" in message
