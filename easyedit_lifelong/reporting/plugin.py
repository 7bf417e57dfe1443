"""The reporting package as a plugin: registers the built-in result trackers."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import TrackerType
from easyedit_lifelong.reporting.trackers.services import MlflowTracker, TensorBoardTracker, WandbTracker
from easyedit_lifelong.reporting.trackers.table_files import CsvTracker, JsonTracker


@hookimpl
def register_trackers(register: Callable[[TrackerType], None]) -> None:
    """Register all trackers. If the package of a service isn't installed, a run with this tracker is refused."""
    register(TrackerType("csv", lambda folder, config: CsvTracker(folder), "metrics.csv in the run's folder"))
    register(TrackerType("json", lambda folder, config: JsonTracker(folder), "metrics.json in the run's folder"))
    for service, description in (
        (TensorBoardTracker, "TensorBoard's event files (needs tensorboard)"),
        (WandbTracker, "Weights & Biases (needs wandb)"),
        (MlflowTracker, "MLflow (needs mlflow)"),
    ):
        register(TrackerType(service.name, service, description, check=service.library))
