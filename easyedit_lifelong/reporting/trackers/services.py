"""Trackers for TensorBoard, Weights & Biases and MLflow, whose packages are optional.

A package is imported when a run with its tracker starts. If a package raises an error during the run, for example since
its server is down, the point is skipped with a warning and the run continues. ``metrics.jsonl`` has every point.
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
from typing import Any, ClassVar

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.parsing import parse_json
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.trackers.flat import flatten, numeric_metrics
from easyedit_lifelong.reporting.trackers.table_files import reported_write_errors
from easyedit_lifelong.runs.run_folder import JOURNAL

LOG = logging.getLogger(__name__)

PROJECT = "easyedit-lifelong"
"""The default project (Weights & Biases) or experiment (MLflow), if environment variables don't name one."""

IDS = "trackers.json"
"""A file in the run's folder with the id of the run at each service, so that a resumed run continues the same run."""

_MAX_PARAM_LENGTH, _MAX_PARAMS_PER_CALL = 500, 100  # the limits of all versions of MLflow


class ServiceTracker(ABC):
    """Base class of trackers that send points to another package.

    Attributes:
        name: the tracker's name for ``--track``, and the name of the package.
        module: the module to import, if it isn't the package.
    """

    name: ClassVar[str]
    module: ClassVar[str] = ""

    def __init__(self) -> None:
        self._n_lost = 0

    @classmethod
    def library(cls) -> Any:
        """Import and return the package, or its module.

        Raises:
            PluginError: the package isn't installed, or can't be imported; the message says what to install.
        """
        name = cls.name
        try:
            package = importlib.import_module(name)
            return importlib.import_module(cls.module) if cls.module else package
        except ModuleNotFoundError as error:
            missing = (error.name or name).partition(".")[0]
            problem = "isn't installed" if missing == name else f"needs {missing}, which isn't installed"
            raise PluginError(
                f"--track {name}: needs the package {name}, which {problem}. Run: pip install {name}"
            ) from error
        except Exception as error:  # an incomplete or old package can raise anything
            raise PluginError(
                f"--track {name}: the package {name} can't be imported: {_sentence(error)} Run: pip install -U {name}"
            ) from error

    @abstractmethod
    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Send the scores at one number of edits to the service."""

    @abstractmethod
    def finish(self) -> None:
        """Send all remaining points, and end the run at the service."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send the metrics that are numbers. Each interval is sent as two metrics."""
        try:
            self.send(step, numeric_metrics(metrics))
        except Exception as error:  # an error of a tracker must not end the run
            self._n_lost += 1
            if self._n_lost == 1:
                LOG.warning(
                    "tracker %s: the point at %s isn't recorded: %s The run continues; its metrics.jsonl has "
                    "every point.",
                    self.name,
                    counted(step, "edit"),
                    _sentence(error),
                )

    def close(self) -> None:
        """End the run at the service; warn if points were lost."""
        try:
            self.finish()
        except Exception as error:  # as above
            LOG.warning("tracker %s: the run couldn't be ended: %s", self.name, _sentence(error))
        if self._n_lost > 1:
            LOG.warning("tracker %s: %d points aren't recorded", self.name, self._n_lost)


class TensorBoardTracker(ServiceTracker):
    """Writes event files into ``tensorboard/`` in the run's folder.

    A resumed run writes another file and logs all earlier points again. ``purge_step`` marks the points of the earlier
    files as replaced.
    """

    name = "tensorboard"
    module = "torch.utils.tensorboard"  # part of torch, needs the package tensorboard

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._writer = self.library().SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=0)
        # Markdown shows indented lines as code.
        text = "\n".join(f"    {name}: {value}" for name, value in flatten(config).items())
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
    """Logs to Weights & Biases; its environment variables are used (WANDB_PROJECT, WANDB_MODE, …).

    A resumed run keeps its id, and points that the service already has are skipped. In offline mode, each part of a
    resumed run writes a file with all points so far, so only the last file must be synced.

    Raises:
        PluginError: the service can't be used; the message says why.
    """

    name = "wandb"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        wandb = self.library()
        run_id = stored_id(folder, self.name) or secrets.token_hex(8)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                name=os.environ.get("WANDB_NAME") or folder.resolve().name,
                dir=str(folder),
                config=dict(config),
                id=run_id,
                resume="allow",
                settings=wandb.Settings(console="off"),  # else wandb captures the output of the progress bar
            )
        except Exception as error:
            raise PluginError(
                f"--track wandb: can't start a run: {_sentence(error)} Log in with 'wandb login', or set "
                "WANDB_MODE=offline to keep it in the run's folder."
            ) from error
        store_id(folder, self.name, run_id)
        self._first_step = int(getattr(self._run, "starting_step", 0) or 0)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        if step >= self._first_step:
            self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """End the run; wait until everything is sent."""
        self._run.finish()


class MlflowTracker(ServiceTracker):
    """Logs to MLflow: to MLFLOW_TRACKING_URI, by default ``mlflow.db`` in the run's folder.

    The experiment is MLFLOW_EXPERIMENT_NAME, by default ``easyedit-lifelong``. A resumed run continues the same MLflow
    run, and points that it already has are skipped, since MLflow would store them twice.

    Raises:
        PluginError: the service can't be used; the message says why.
    """

    name = "mlflow"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        mlflow = self.library()
        self._entities = importlib.import_module("mlflow.entities")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            resumed_id = self._resume(stored_id(folder, self.name))
            self._run_id = resumed_id or self._create_run(folder.resolve().name, flatten(config))
        except Exception as error:
            raise PluginError(
                f"--track mlflow: can't start a run in {uri}: {_sentence(error)} Set MLFLOW_TRACKING_URI to the "
                "address of a server. Without a server, MLflow needs SQLAlchemy, which 'pip install mlflow' installs."
            ) from error
        store_id(folder, self.name, self._run_id)
        self._resumed = resumed_id is not None
        self._recorded: dict[str, set[int]] = {}

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, step)
            for name, value in values.items()
            if step not in self._recorded_steps(name)
        ]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)

    def finish(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id)

    def _resume(self, run_id: str | None) -> str | None:
        """Reopen the earlier run of this folder and return its id; None if the server has no such run."""
        if run_id is None:
            return None
        try:
            self._client.get_run(run_id)
            self._client.update_run(run_id, status="RUNNING")
        except Exception as error:  # the run was deleted, or this is another server
            LOG.warning("tracker mlflow: starts a new run, since run %s can't be resumed: %s", run_id, _sentence(error))
            return None
        return run_id

    def _create_run(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a run with the configuration as parameters; return its id."""
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(experiment_name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(experiment_name)
        run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
        params = [self._entities.Param(key, str(value)[:_MAX_PARAM_LENGTH]) for key, value in config.items()]
        for start in range(0, len(params), _MAX_PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[start : start + _MAX_PARAMS_PER_CALL])
        return run_id

    def _recorded_steps(self, metric: str) -> set[int]:
        """Return the steps at which the resumed run already has a metric."""
        if metric not in self._recorded:
            history = self._client.get_metric_history(self._run_id, metric) if self._resumed else ()
            self._recorded[metric] = {point.step for point in history}
        return self._recorded[metric]


def stored_id(folder: Path, service: str) -> str | None:
    """Return the id of a folder's run at a service; None for a new run.

    A run with an empty journal is new. Ids in its folder are then those of an earlier run.
    """
    journal = folder / JOURNAL
    has_started = journal.is_file() and journal.stat().st_size > 0
    return _read_ids(folder).get(service) if has_started else None


def store_id(folder: Path, service: str, run_id: str) -> None:
    """Store the id of a folder's run at a service.

    Raises:
        RunError: the file can't be written.
    """
    with reported_write_errors(folder / IDS):
        write_text_atomically(folder / IDS, json.dumps({**_read_ids(folder), service: run_id}, indent=2) + "\n")


def _read_ids(folder: Path) -> dict[str, str]:
    """Return the stored ids by service; empty if there is no valid file."""
    try:
        ids = dict(parse_json((folder / IDS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # the service then starts a new run
    return {key: value for key, value in ids.items() if isinstance(value, str)}


def _sentence(error: Exception) -> str:
    """Return an error's message on one line, with a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else text + "."
