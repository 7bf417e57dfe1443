"""Trackers of packages that are installed apart: TensorBoard, Weights & Biases, MLflow.

Their packages are imported when a run begins, not before. What goes wrong in one of them while the run goes on
(a server that is gone, say) costs the point and a warning, never the run: ``metrics.jsonl`` has every point.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import replace_text
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.reporting.trackers.flat import flat, numbers
from easyedit_lifelong.reporting.trackers.table_files import writing
from easyedit_lifelong.runs.run_folder import JOURNAL

LOG = logging.getLogger(__name__)

PROJECT = "easyedit-lifelong"
"""The project (Weights & Biases) or experiment (MLflow) of runs for which none is named in the environment."""

IDS = "trackers.json"
"""Under which ids services know the run in a folder, so that a resumed run goes on there."""

_LONGEST_PARAM, _MOST_PARAMS = 500, 100  # what any version of MLflow takes


def library(tracker: str, module: str, package: str) -> Any:
    """Import what a tracker needs.

    Raises:
        PluginError: it isn't installed, or can't be imported; the message names the package.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        itself = "isn't installed" if missing == package else f"needs {missing}, which isn't installed"
        raise PluginError(
            f"--track {tracker}: is done by the package {package}, which {itself}. Run: pip install {package}"
        ) from error
    except Exception as error:  # a stranger's package, half installed or too old
        raise PluginError(
            f"--track {tracker}: the package {package} can't be imported: {_said(error)} Run: pip install -U {package}"
        ) from error


class ServiceTracker(ABC):
    """A tracker that hands points on to a package.

    Args:
        name: what ``--track`` calls it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lost = 0

    @abstractmethod
    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Hand on one point."""

    @abstractmethod
    def finish(self) -> None:
        """Hand on what is left, and end."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Hand on the metrics that are numbers; confidence intervals as two each."""
        try:
            self.send(step, numbers(metrics))
        except Exception as error:  # whatever a stranger's package raises, the run is worth more
            self._lost += 1
            if self._lost == 1:
                LOG.warning(
                    "tracker %s: the point at %d edits isn't recorded: %s The run goes on; its metrics.jsonl has "
                    "every point.", self.name, step, _said(error),
                )  # fmt: skip

    def close(self) -> None:
        """End the service's run."""
        try:
            self.finish()
        except Exception as error:  # as above
            LOG.warning("tracker %s: didn't end as it should: %s", self.name, _said(error))
        if self._lost > 1:
            LOG.warning("tracker %s: %d points aren't recorded", self.name, self._lost)


class TensorBoardTracker(ServiceTracker):
    """Writes event files into ``tensorboard/`` in the run's folder.

    A resumed run writes a further file; what the earlier ones hold is marked as replaced (``purge_step``), since
    all earlier points are told again.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__("tensorboard")
        self._writer = tensorboard().SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=0)
        text = "\n".join(f"    {name}: {value}" for name, value in flat(config).items())  # indented: Markdown's code
        self._writer.add_text("config", text, global_step=0)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Write a scalar for every metric."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbTracker(ServiceTracker):
    """Logs to Weights & Biases, as its environment variables say (WANDB_PROJECT, WANDB_MODE, …).

    A resumed run goes on under the same id, and points that the service has already are left out. Offline, every
    part of such a run has a file of its own with all points so far; to sync the last is enough.

    Raises:
        PluginError: the service can't be used; the message says why.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__("wandb")
        wandb = weights_and_biases()
        run_id = known_id(folder, self.name) or secrets.token_hex(8)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                name=os.environ.get("WANDB_NAME") or folder.resolve().name,
                dir=str(folder), config=dict(config), id=run_id, resume="allow",
                settings=wandb.Settings(console="off"),  # it would take over standard output from the progress bar
            )  # fmt: skip
        except Exception as error:
            raise PluginError(
                f"--track wandb: can't begin a run: {_said(error)} Log in with 'wandb login', or set "
                "WANDB_MODE=offline to keep it in the run's folder."
            ) from error
        remember_id(folder, self.name, run_id)
        self._first = int(getattr(self._run, "starting_step", 0) or 0)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        if step >= self._first:
            self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """End the run; waits until everything is sent."""
        self._run.finish()


class MlflowTracker(ServiceTracker):
    """Logs to MLflow: where MLFLOW_TRACKING_URI says, else into ``mlflow.db`` in the run's folder.

    The experiment is MLFLOW_EXPERIMENT_NAME, else ``easyedit-lifelong``. A resumed run goes on in the same MLflow
    run, and what that run has already is left out: MLflow would keep both.

    Raises:
        PluginError: the service can't be used; the message says why.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__("mlflow")
        mlflow = mlflow_library()
        self._entities = importlib.import_module("mlflow.entities")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            before = self._taken_up(known_id(folder, self.name))
            self._run_id = before or self._begun(folder.resolve().name, flat(config))
        except Exception as error:
            raise PluginError(
                f"--track mlflow: can't begin a run in {uri}: {_said(error)} A server's address goes into "
                "MLFLOW_TRACKING_URI; without one, MLflow needs SQLAlchemy, which 'pip install mlflow' brings."
            ) from error
        remember_id(folder, self.name, self._run_id)
        self._resumed = before is not None
        self._had: dict[str, set[int]] = {}

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, step)
            for name, value in values.items()
            if step not in self._steps_had(name)
        ]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)

    def finish(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id)

    def _taken_up(self, run_id: str | None) -> str | None:
        """Go on in the run that this folder's was; None if there is none any more, or not in this place."""
        if run_id is None:
            return None
        try:
            self._client.get_run(run_id)
            self._client.update_run(run_id, status="RUNNING")
        except Exception as error:  # deleted there, or another server now
            LOG.warning("tracker mlflow: begins a new run, as %s can't be taken up again: %s", run_id, _said(error))
            return None
        return run_id

    def _begun(self, name: str, config: Mapping[str, Any]) -> str:
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(experiment_name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(experiment_name)
        run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
        params = [self._entities.Param(key, str(value)[:_LONGEST_PARAM]) for key, value in config.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        return run_id

    def _steps_had(self, metric: str) -> set[int]:
        """Return the steps at which the run had a metric when it was taken up again."""
        if not self._resumed:
            return set()
        if metric not in self._had:
            self._had[metric] = {point.step for point in self._client.get_metric_history(self._run_id, metric)}
        return self._had[metric]


def tensorboard() -> Any:
    """Return the module that writes TensorBoard's files: torch's, which needs the package tensorboard.

    Raises:
        PluginError: it isn't installed.
    """
    library("tensorboard", "tensorboard", "tensorboard")
    return library("tensorboard", "torch.utils.tensorboard", "tensorboard")


def weights_and_biases() -> Any:
    """Return the package of Weights & Biases.

    Raises:
        PluginError: it isn't installed.
    """
    return library("wandb", "wandb", "wandb")


def mlflow_library() -> Any:
    """Return MLflow.

    Raises:
        PluginError: it isn't installed.
    """
    return library("mlflow", "mlflow", "mlflow")


def known_id(folder: Path, service: str) -> str | None:
    """Return under which id a service knows the run in a folder; None if the run has only begun.

    Ids that another run left in the folder don't count: a run that has no line in its journal is new.
    """
    journal, file = folder / JOURNAL, folder / IDS
    if not journal.is_file() or journal.stat().st_size == 0:
        return None
    return _ids(file).get(service)


def remember_id(folder: Path, service: str, run_id: str) -> None:
    """Keep under which id a service knows the run in a folder.

    Raises:
        RunError: it can't be written.
    """
    file = folder / IDS
    with writing(file):
        replace_text(file, json.dumps({**_ids(file), service: run_id}, indent=2) + "\n")


def _ids(file: Path) -> dict[str, str]:
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # not there, or somebody else's: the service begins a new run
    return {key: value for key, value in ids.items() if isinstance(value, str)} if isinstance(ids, dict) else {}


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else text + "."
