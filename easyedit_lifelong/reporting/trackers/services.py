"""Trackers of packages that are installed apart: TensorBoard, Weights & Biases, MLflow.

Their packages are imported when a run begins, not before. An error in one of them during the run (a server that is
gone, say) costs the point and a warning, never the run: ``metrics.jsonl`` has every point.
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

from easyedit_lifelong.atomic import replace_text
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.reporting.trackers.flat import flat, numbers
from easyedit_lifelong.reporting.trackers.table_files import writing
from easyedit_lifelong.runs.run_folder import JOURNAL

LOG = logging.getLogger(__name__)

PROJECT = "easyedit-lifelong"
"""The project (Weights & Biases) or experiment (MLflow) of runs for which none is named in the environment."""

IDS = "trackers.json"
"""File with the id of a folder's run at each service, so that a resumed run continues there."""

_LONGEST_PARAM, _MOST_PARAMS = 500, 100  # what any version of MLflow takes


class ServiceTracker(ABC):
    """A tracker that sends points to a package.

    Attributes:
        name: what ``--track`` calls it, and the name of the package.
        module: what is imported of the package, if it is not the package.
    """

    name: ClassVar[str]
    module: ClassVar[str] = ""

    def __init__(self) -> None:
        self._lost = 0

    @classmethod
    def library(cls) -> Any:
        """Import what the tracker needs.

        Raises:
            PluginError: it is not installed, or cannot be imported; the message names the package.
        """
        name = cls.name
        try:
            package = importlib.import_module(name)
            return importlib.import_module(cls.module) if cls.module else package
        except ModuleNotFoundError as error:
            missing = (error.name or name).partition(".")[0]
            itself = "isn't installed" if missing == name else f"needs {missing}, which isn't installed"
            raise PluginError(
                f"--track {name}: is done by the package {name}, which {itself}. Run: pip install {name}"
            ) from error
        except Exception as error:  # a third party's package, half installed or too old
            raise PluginError(
                f"--track {name}: the package {name} can't be imported: {_sentence(error)} Run: pip install -U {name}"
            ) from error

    @abstractmethod
    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Send one point."""

    @abstractmethod
    def finish(self) -> None:
        """Send what is left, and end the service's run."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send the metrics that are numbers; confidence intervals as two each."""
        try:
            self.send(step, numbers(metrics))
        except Exception as error:  # whatever a third party's package raises, the run is worth more
            self._lost += 1
            if self._lost == 1:
                LOG.warning(
                    "tracker %s: the point at %d edits isn't recorded: %s The run goes on; its metrics.jsonl has "
                    "every point.",
                    self.name,
                    step,
                    _sentence(error),
                )

    def close(self) -> None:
        """End the service's run."""
        try:
            self.finish()
        except Exception as error:  # as above
            LOG.warning("tracker %s: didn't end as it should: %s", self.name, _sentence(error))
        if self._lost > 1:
            LOG.warning("tracker %s: %d points aren't recorded", self.name, self._lost)


class TensorBoardTracker(ServiceTracker):
    """Writes event files into ``tensorboard/`` in the run's folder.

    A resumed run writes a further file; what the earlier ones hold is marked as replaced (``purge_step``), since
    all earlier points are logged again.
    """

    name = "tensorboard"
    module = "torch.utils.tensorboard"  # torch's, which needs the package

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._writer = self.library().SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=0)
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

    A resumed run keeps its id, and points that the service already has are left out. Offline, every part of such a
    run writes its own file with all points so far; syncing the last is enough.

    Raises:
        PluginError: the service can't be used; the message says why.
    """

    name = "wandb"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        wandb = self.library()
        run_id = known_id(folder, self.name) or secrets.token_hex(8)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                name=os.environ.get("WANDB_NAME") or folder.resolve().name,
                dir=str(folder),
                config=dict(config),
                id=run_id,
                resume="allow",
                settings=wandb.Settings(console="off"),  # it would take over standard output from the progress bar
            )
        except Exception as error:
            raise PluginError(
                f"--track wandb: can't begin a run: {_sentence(error)} Log in with 'wandb login', or set "
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

    The experiment is MLFLOW_EXPERIMENT_NAME, else ``easyedit-lifelong``. A resumed run continues the same MLflow
    run, and points that it already has are left out: MLflow would keep both.

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
            before = self._resume(known_id(folder, self.name))
            self._run_id = before or self._create_run(folder.resolve().name, flat(config))
        except Exception as error:
            raise PluginError(
                f"--track mlflow: can't begin a run in {uri}: {_sentence(error)} A server's address goes into "
                "MLFLOW_TRACKING_URI; without one, MLflow needs SQLAlchemy, which 'pip install mlflow' brings."
            ) from error
        remember_id(folder, self.name, self._run_id)
        self._resumed = before is not None
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
        """Reopen the earlier run of this folder; None if there is none any more, or not in this place."""
        if run_id is None:
            return None
        try:
            self._client.get_run(run_id)
            self._client.update_run(run_id, status="RUNNING")
        except Exception as error:  # deleted there, or another server now
            LOG.warning("tracker mlflow: begins a new run, as %s can't be taken up again: %s", run_id, _sentence(error))
            return None
        return run_id

    def _create_run(self, name: str, config: Mapping[str, Any]) -> str:
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(experiment_name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(experiment_name)
        run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
        params = [self._entities.Param(key, str(value)[:_LONGEST_PARAM]) for key, value in config.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        return run_id

    def _recorded_steps(self, metric: str) -> set[int]:
        """Return the steps at which the run had a metric when it was resumed."""
        if metric not in self._recorded:
            history = self._client.get_metric_history(self._run_id, metric) if self._resumed else ()
            self._recorded[metric] = {point.step for point in history}
        return self._recorded[metric]


def known_id(folder: Path, service: str) -> str | None:
    """Return the id of a folder's run at a service; None if the run has only begun.

    Ids that another run left in the folder do not count: a run that has no line in its journal is new.
    """
    journal = folder / JOURNAL
    begun = journal.is_file() and journal.stat().st_size > 0
    return _ids(folder).get(service) if begun else None


def remember_id(folder: Path, service: str, run_id: str) -> None:
    """Keep the id of a folder's run at a service.

    Raises:
        RunError: it cannot be written.
    """
    with writing(folder / IDS):
        replace_text(folder / IDS, json.dumps({**_ids(folder), service: run_id}, indent=2) + "\n")


def _ids(folder: Path) -> dict[str, str]:
    try:
        ids = dict(json.loads((folder / IDS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # not there, or not written by a tracker: the service begins a new run
    return {key: value for key, value in ids.items() if isinstance(value, str)}


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else text + "."
