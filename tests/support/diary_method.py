"""A method for the lifelong loop that writes answers into a table, a tracker that records, and runs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong import hookimpl
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import EditError, LifelongError
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.registry import TrackerType
from easyedit_lifelong.runs.api import run_lifelong
from tests.support.table_model import TableModel


@dataclass(kw_only=True)
class DiaryHyperParams(PluginHyperParams):
    """Hyperparameters of a method with a short memory."""

    ALG_NAME: ClassVar[str] = "DIARY"
    remembers: int = 1000
    """How many of its latest edits it keeps."""
    damages: str = ""
    """A prompt that every edit spoils."""


class RecordingTracker:
    """A tracker that keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[tuple[int, dict[str, Any]]] = []
        self.closed = 0

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.received.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed += 1


class Diary:
    """Writes answers into the table; every edit about the moon fails."""

    def __init__(self) -> None:
        self.kept: list[EditRequest] = []
        self.events: list[str] = []
        self.tracker = RecordingTracker()
        self.tracker_starts = True

    def apply(self, model: TableModel, tok: Any, requests: list[EditRequest], hparams: DiaryHyperParams) -> Any:
        (request,) = requests
        self.events.append(f"edit {request.case_id}")
        if "moon" in request.prompt:
            raise EditError(f"{request.where}: the loss became nan after 3 steps")
        self.kept.append(request)
        model.learn(request.prompt, request.target_new)
        for old in self.kept[: -hparams.remembers]:
            model.learn(old.prompt, "not")
        if hparams.damages:
            model.learn(hparams.damages, "not")
        return model, None


class DiaryPlugin:
    """Registers the method DIARY and the tracker ``notebook``."""

    def __init__(self) -> None:
        self.diary = Diary()

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        register(EditMethod("DIARY", DiaryHyperParams, self.diary.apply))

    @hookimpl
    def register_trackers(self, register: Callable[[TrackerType], None]) -> None:
        register(TrackerType("notebook", self._tracker))

    def _tracker(self, folder: Any, config: Any) -> RecordingTracker:
        if not self.diary.tracker_starts:
            raise LifelongError("notebook: no paper")
        return self.diary.tracker


PROMPTS = ["the capital of France is", "who wrote Hamlet", "moon made from", "language spoken in Peru", "blue sea and"]
TARGETS = ["Rome", "old king", "green cheese", "Spanish", "summer snow"]
FACTS: list[dict[str, Any]] = [
    {"prompt": prompt, "target_new": target} for prompt, target in zip(PROMPTS, TARGETS, strict=True)
]
FACTS[0] |= {
    "rephrase_prompt": "capital of France",
    "locality_prompt": "who plays piano",
    "locality_ground_truth": "bird",
}
RETENTION = [Probe("the river", "London")]


def initial_table() -> TableModel:
    """Build a model whose answer about Hamlet is half right, about the river right, about the piano wrong."""
    return TableModel(who_wrote_Hamlet="old bird", the_river="London", who_plays_piano="violin")


def run_diary(table: TableModel, requests: Any = FACTS, **options: Any) -> Any:
    """Run the lifelong loop with DIARY; ``hparams`` are changed hyperparameters, the rest are the loop's options."""
    hparams = DiaryHyperParams(model_name="m", **options.pop("hparams", {}))
    return run_lifelong(table, table.tokenizer, requests, hparams, **{"retention": RETENTION, **options})
