"""A method that writes answers into a table, can be killed at any event, and has runs to test the loop with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from easyedit_lifelong import hookimpl, run_consecutive
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.registry import TrackerType
from easyedit_lifelong.snapshots import Snapshots
from tests.support.table_model import TableModel


@dataclass(kw_only=True)
class LedgerHyperParams(PluginHyperParams):
    """Hyperparameters of a method that may keep only its latest edits."""

    ALG_NAME: ClassVar[str] = "LEDGER"
    remembers: int = 1000
    """The number of latest edits that it keeps."""


class Killed(BaseException):
    """Stands for a kill: no ``except Exception`` handles it."""


class Ledger:
    """Writes batches of answers into the table; a batch with "moon" in a prompt fails and is undone."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.kill: tuple[str, int] | None = None
        """The event that kills, and how many times it must happen."""

    def record_event(self, event: str) -> None:
        self.events.append(event)
        if self.kill and self.kill[0] == event.split()[0]:
            self.kill = (self.kill[0], self.kill[1] - 1)
            if self.kill[1] == 0:
                raise Killed

    def apply(self, model: TableModel, tok: Any, requests: list[EditRequest], hparams: LedgerHyperParams) -> Any:
        before, kept = dict(model.table), list(self.kept(model))
        for request in requests:
            if "moon" in request.prompt:
                model.table, model.kept = before, kept
                raise EditError(f"{request.where}: the loss became nan")
            model.learn(request.prompt, request.target_new)
            self.kept(model).append(request)
            self.record_event(f"edit {request.case_id}")
        for old in self.kept(model)[: -hparams.remembers]:
            model.learn(old.prompt, "not")

        def undo() -> None:
            self.record_event("undo")
            model.table, model.kept = before, kept

        return model, Rollback(undo, on_items=False)

    def kept(self, model: TableModel) -> list[EditRequest]:
        return model.__dict__.setdefault("kept", [])

    def check_requests(self, model: Any, tok: Any, hparams: Any, requests: list[EditRequest]) -> None:
        for request in requests:
            if "violin" in request.prompt:
                raise DataError(f"{request.where}, field 'prompt': is about violins")

    def save(self, model: TableModel, folder: Path) -> None:
        table = [[list(key), value] for key, value in model.table.items()]
        (folder / "table.json").write_text(json.dumps(table))
        self.record_event("save")
        kept = [[request.case_id, request.prompt, request.target_new] for request in self.kept(model)]
        (folder / "kept.json").write_text(json.dumps(kept))

    def load(self, model: TableModel, tok: Any, hparams: Any, folder: Path) -> None:
        self.record_event("load")
        model.table = {tuple(key): value for key, value in json.loads((folder / "table.json").read_text())}
        model.kept = [EditRequest(*values) for values in json.loads((folder / "kept.json").read_text())]


class RecordingTracker:
    """A tracker that keeps the points that are logged."""

    def __init__(self) -> None:
        self.received: list[tuple[int, dict[str, Any]]] = []

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.received.append((step, dict(metrics)))

    def close(self) -> None:
        pass


class Plugin:
    """A plugin with this method and this tracker."""

    def __init__(self) -> None:
        self.ledger, self.notebook = Ledger(), RecordingTracker()

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        ledger = self.ledger
        register(
            EditMethod(
                "LEDGER",
                LedgerHyperParams,
                ledger.apply,
                batchable=True,
                check_requests=ledger.check_requests,
                state=Snapshots(ledger),
            )
        )

    @hookimpl
    def register_trackers(self, register: Callable[[TrackerType], None]) -> None:
        register(TrackerType("pad", lambda folder, config: self.notebook))


PROMPTS = ["the capital of France is", "who wrote Hamlet", "moon made from", "language spoken in Peru", "blue sea and"]

TARGETS = ["Rome", "old king", "green cheese", "Spanish", "summer snow"]

FACTS: list[dict[str, Any]] = [
    {"prompt": prompt, "target_new": target} for prompt, target in zip(PROMPTS, TARGETS, strict=True)
]

FACTS[0] |= {
    "rephrase_prompt": "capital of France",
    "locality_prompt": "who plays piano",
    "locality_ground_truth": "bird",
    "portability": {"hop": {"prompt": "old king", "ground_truth": "winter"}},
}

RETENTION = [Probe("the river", "London")]


def ledger_table() -> TableModel:
    """Return a model that answers one prompt half right and another one right before any edit."""
    torch.manual_seed(0)
    return TableModel(who_wrote_Hamlet="old bird", the_river="London", who_plays_piano="violin", old_king="winter")


def run_ledger(table: TableModel, requests: Any = FACTS, **options: Any) -> Any:
    hparams = LedgerHyperParams(model_name="m", **options.pop("hparams", {}))
    options = {"retention": RETENTION, "batch_size": 2, **options}
    return run_consecutive(table, table.tokenizer, requests, hparams, **options)


TWELVE_FACTS = [
    {"prompt": f"{a} {b}", "target_new": c}
    for a in ("river", "song", "bird")
    for b, c in (("Paris", "Rome"), ("king", "moon"), ("sea", "blue snow"), ("when", "far"))
]

TWELVE_FACTS[5]["prompt"] = "moon king"
