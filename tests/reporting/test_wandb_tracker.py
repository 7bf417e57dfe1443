"""The Weights & Biases tracker, with a fake of the package and, where it is installed, with the package itself."""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.reporting.trackers.services import IDS
from tests.support.tracker_points import (
    CONFIG,
    EXPECTED,
    POINTS,
    create_tracker,
    log_killed_and_resumed_run,
    needs_module,
    points_by_metric,
)


class FakeWandb(ModuleType):
    """The part of wandb that the tracker uses: a server that stores runs and refuses decreasing steps."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.server: dict[str, dict[str, Any]] = {}
        self.refused: list[int] = []
        self.failure: Exception | None = None
        self.Settings = SimpleNamespace

    def init(
        self, *, project: str, name: str, dir: str, config: dict[str, Any], id: str, resume: str, settings: Any
    ) -> FakeWandbRun:
        if self.failure:
            raise self.failure
        assert resume == "allow" and settings.console == "off"
        stored = self.server.setdefault(id, {"points": {}, "project": project, "name": name, "finished": 0})
        stored["config"] = config
        return FakeWandbRun(self, stored)


class FakeWandbRun:
    def __init__(self, wandb: FakeWandb, stored: dict[str, Any]) -> None:
        self.wandb, self.stored = wandb, stored
        self.starting_step = max(stored["points"], default=-1) + 1

    def log(self, values: dict[str, float], *, step: int) -> None:
        if step < max(self.stored["points"], default=0):
            self.wandb.refused.append(step)
        else:
            self.stored["points"].setdefault(step, {}).update(values)

    def finish(self) -> None:
        self.stored["finished"] += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for variable in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return fake


def test_wandb_has_every_point_of_a_resumed_run_once(wandb: FakeWandb, tmp_path: Path) -> None:
    log_killed_and_resumed_run("wandb", tmp_path)
    (stored,) = wandb.server.values()
    points = stored.pop("points")
    logged = [(name, step, value) for step, values in points.items() for name, value in values.items()]
    assert points_by_metric(logged) == EXPECTED
    assert stored == {"project": "easyedit-lifelong", "name": tmp_path.name, "config": CONFIG, "finished": 2}
    assert wandb.refused == []


def test_a_new_run_in_the_same_folder_is_a_new_wandb_run(wandb: FakeWandb, tmp_path: Path) -> None:
    create_tracker("wandb", tmp_path).close()
    create_tracker("wandb", tmp_path).close()
    assert len(wandb.server) == 2


def test_wandb_takes_project_and_name_from_the_environment(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "first")
    create_tracker("wandb", tmp_path).close()
    (stored,) = wandb.server.values()
    assert (stored["project"], stored["name"]) == ("mine", "first")


def test_a_missing_wandb_key_is_refused_with_a_hint(wandb: FakeWandb, tmp_path: Path) -> None:
    wandb.failure = RuntimeError("No API key configured. Use `wandb login` to log in.")
    with pytest.raises(PluginError, match=r"--track wandb: can't start a run: No API key .* WANDB_MODE=offline"):
        create_tracker("wandb", tmp_path)


def test_a_failing_service_loses_points_but_does_not_stop_the_run(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = create_tracker("wandb", tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("server\ngone")

    monkeypatch.setattr(FakeWandbRun, "log", fail)
    monkeypatch.setattr(FakeWandbRun, "finish", fail)
    for step, metrics in POINTS:
        tracker.log(step, metrics)
    tracker.close()
    assert caplog.messages == [
        "tracker wandb: the point at 1 edit isn't recorded: server gone. The run continues; its metrics.jsonl has "
        "every point.",
        "tracker wandb: the run couldn't be ended: server gone.",
        "tracker wandb: 3 points aren't recorded",
    ]


def _wandb_records(data: bytes, block: int = 1 << 15) -> Iterator[bytes]:
    """Read the records of wandb's file: 7 bytes, then a LevelDB log, whose records are cut at the ends of blocks."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = block - position % block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):  # the rest of it isn't written yet
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of one
            yield parts
            parts = b""


@needs_module("wandb")
def test_the_real_wandb_records_every_point_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = create_tracker("wandb", tmp_path)
    for step, metrics in POINTS:
        tracker.log(step, metrics)
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    internal, records = importlib.import_module("wandb.proto.wandb_internal_pb2"), []
    until = time.monotonic() + 30
    while not records or records[-1].WhichOneof("record_type") != "exit":  # another process writes the file
        assert time.monotonic() < until, f"wandb hasn't finished its file: {[str(record)[:80] for record in records]}"
        time.sleep(0.05)
        records = [internal.Record.FromString(data) for data in _wandb_records(file.read_bytes())]
    histories = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    logged = [
        (item.key or item.nested_key[0], history.step.num, json.loads(item.value_json))
        for history in histories
        for item in history.item
    ]
    assert points_by_metric(point for point in logged if not point[0].startswith("_")) == EXPECTED
    assert json.loads((tmp_path / IDS).read_text()) == {"wandb": file.stem.removeprefix("run-")}
