"""The launcher that runs cells on a Ray cluster, or on a Ray of this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from easyedit_lifelong.errors import RunError, reason_of
from easyedit_lifelong.runs.sweep.launcher import POLL_SECONDS, CellEnd, Ends
from easyedit_lifelong.runs.sweep.ray_resources import RayResources
from easyedit_lifelong.runs.sweep.run_cell import CellJob, RunCell, outcome_of, run_cell

LOG = logging.getLogger(__name__)

_STORE_BYTES = 80 * 2**20
"""Size of the object store of a local Ray. Cells exchange no data, and this is about the least that Ray accepts."""

_NO_STATISTICS = {"RAY_USAGE_STATS_ENABLED": "0"}
_THIS_MACHINE_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a local Ray listen at 127.0.0.1, as is the default on Windows and macOS. On Linux, it is all addresses."""
_QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class RayLauncher:
    """Runs as many cells at a time as the resources of the cluster allow.

    All nodes need this package, and the folders of the sweep at the same paths. When a worker or its node dies, Ray
    starts the cell again, and the cell resumes from its folder.

    Args:
        resources: what a cell gets, and the cluster.
        run: the function that runs a cell; it must be importable.
    """

    def __init__(self, resources: RayResources, run: RunCell = run_cell) -> None:
        self.resources, self.run = resources, run

    def launch(self, jobs: Sequence[CellJob]) -> Ends:
        """Start the cells, and yield their ends; see :class:`~easyedit_lifelong.runs.sweep.launcher.Launcher`."""
        resources = self.resources
        with _connected(resources) as ray:
            # One call a worker: each cell has another process, which returns its memory at its end.
            remote = ray.remote(
                num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=resources.retries, max_calls=1
            )(outcome_of)
            threads = max(1, int(resources.cpus))
            pending = {remote.options(name=job.name).remote(self.run, job, threads): job.name for job in jobs}
            try:
                while pending:
                    ended, _ = ray.wait(list(pending), timeout=POLL_SECONDS)
                    for reference in ended:
                        yield CellEnd(pending.pop(reference), _failure(ray, reference))
                    if not ended:
                        yield None
            finally:
                for reference in pending:
                    ray.cancel(reference, force=True)


@contextlib.contextmanager
def _connected(resources: RayResources) -> Iterator[Any]:
    """Yield the module ``ray``, connected to the cluster, or to a new Ray of this machine, which ends with the context.

    Raises:
        RunError: the cluster can't be reached, or this machine has fewer resources than a cell needs.
    """
    address = resources.address or os.environ.get("RAY_ADDRESS") or None
    os.environ.update(_NO_STATISTICS | (_THIS_MACHINE_ONLY if address is None else {}))  # the import reads them
    import ray

    if ray.is_initialized():  # by the program that calls this
        _check_enough(ray, resources, "the cluster")
        yield ray
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **_QUIET)
        else:
            ray.init(address, **_QUIET)
    except Exception as error:
        where = "start on this machine" if address is None else f"be reached at {address}"
        raise RunError(f"Ray can't {where}: {' '.join(str(error).split())}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would exit without a message
    try:
        _check_enough(ray, resources, address)
        yield ray
    finally:
        ray.shutdown()


def _check_enough(ray: Any, resources: RayResources, cluster: str | None) -> None:
    """Check that a node has what a cell needs: Ray would wait for such a node for ever.

    A cluster can get further nodes, so that too small ones are only a warning.

    Args:
        ray: the module, connected.
        resources: what a cell needs.
        cluster: the name of the cluster, for the warning; None for a Ray of this machine.

    Raises:
        RunError: this machine has less.
    """
    needed = {"CPU": resources.cpus, "GPU": resources.gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= number for name, number in needed.items()) for node in nodes):
        return
    cell, found = f"ray: a cell needs {_amounts(needed)}", "; ".join(map(_amounts, nodes)) or "none"
    if cluster is None:
        raise RunError(
            f"{cell}, and this machine has {found}. Lower ray.cpus or ray.gpus in the grid, or name a "
            "cluster in ray.address."
        )
    LOG.warning(
        "%s, and no node of %s has that many (nodes: %s). The cells wait until there is such a node; to end the "
        "waiting, press Ctrl-C and lower ray.cpus or ray.gpus in the grid.",
        cell,
        cluster,
        found,
    )


def _amounts(resources: Mapping[str, float]) -> str:
    """Return the numbers of CPUs and GPUs as text."""
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _failure(ray: Any, reference: Any) -> str | None:
    """Return why a cell failed; None if it is finished."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # before the cell began, since outcome_of catches its errors
        return f"its Ray worker failed: {reason_of(error.cause)}"
    except ray.exceptions.RayError as error:
        return f"its Ray worker failed: {str(error).strip().splitlines()[0]}"
