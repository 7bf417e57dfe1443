"""Trackers of packages that are installed apart: with the packages where they are, else with stand-ins."""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import Tracker
from easyedit_lifelong.reporting.trackers.flat import flatten, numeric_metrics
from easyedit_lifelong.reporting.trackers.services import IDS, store_id, stored_id

CONFIG = {"method": "GRACE", "hparams": {"eps": 1.0, "layers": [1, 2]}}
POINTS: list[tuple[int, dict[str, Any]]] = [
    (1, {"ES": 1.0, "intervals": {"ES": [0.5, 1.0]}}),
    (2, {"ES": 0.75, "generation_match": 0.5, "note": "no number"}),
    (4, {"ES": 0.5}),
]
EXPECTED = {
    "ES": [(1, 1.0), (2, 0.75), (4, 0.5)],
    "ES_low": [(1, 0.5)],
    "ES_high": [(1, 1.0)],
    "generation_match": [(2, 0.5)],
}


def needs_module(module: str) -> Any:
    there = module in sys.modules or importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not there, reason=f"{module} isn't installed (pip install {module})")


def create_tracker(name: str, folder: Path) -> Tracker:
    return get_plugins().trackers.get(name).create(folder, CONFIG)


def log_killed_and_resumed_run(name: str, folder: Path) -> None:
    """A run that is killed after its second point, and resumed: it tells the first two again."""
    tracker = create_tracker(name, folder)
    (folder / "journal.jsonl").write_text('{"status": "edited"}\n')
    for step, metrics in POINTS[:2]:
        tracker.log(step, metrics)
    tracker.close()  # what a kill leaves out; the packages' own business
    tracker = create_tracker(name, folder)
    for step, metrics in POINTS:
        tracker.log(step, metrics)
    tracker.close()


# ------------------------------------------------------------------ what they are told


def test_metrics_are_flattened_to_one_row() -> None:
    assert flatten({"a": 1, "b": {"c": {"d": "x"}}, "intervals": {"a": [0, 2], "e": None}, "f": [1]}) == {
        "a": 1,
        "b.c.d": "x",
        "a_low": 0,
        "a_high": 2,
        "f": [1],
    }
    assert flatten({"intervals": 3}) == {"intervals": 3}
    assert numeric_metrics({"a": 1, "b": "x", "c": None, "d": True, "intervals": {"a": (0.5, 2)}}) == {
        "a": 1.0,
        "d": 1.0,
        "a_low": 0.5,
        "a_high": 2.0,
    }


def test_stored_ids_count_only_if_the_folder_has_a_journal(tmp_path: Path) -> None:
    assert stored_id(tmp_path, "wandb") is None
    store_id(tmp_path, "wandb", "a")
    store_id(tmp_path, "mlflow", "b")
    assert stored_id(tmp_path, "wandb") is None, "no line in the journal: the ids are another run's"
    (tmp_path / "journal.jsonl").write_text("{}\n")
    assert (stored_id(tmp_path, "wandb"), stored_id(tmp_path, "mlflow"), stored_id(tmp_path, "x")) == ("a", "b", None)
    for broken in ("{", "[]", '{"wandb": 5}'):
        (tmp_path / IDS).write_text(broken)
        assert stored_id(tmp_path, "wandb") is None


# ------------------------------------------------------------------ failing_import the packages


@pytest.fixture
def failing_import(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Exception], None]:
    """Have a package fail to be imported."""
    real = importlib.import_module

    def hide(package: str, error: Exception) -> None:
        def find(name: str, *rest: Any) -> Any:
            if name.partition(".")[0] == package:
                raise error
            return real(name, *rest)

        monkeypatch.setattr(importlib, "import_module", find)

    return hide


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_or_broken_package_is_refused_with_its_install_command(
    name: str, tmp_path: Path, failing_import: Callable[[str, Exception], None]
) -> None:
    kind = get_plugins().trackers.get(name)
    failing_import(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
    says = f"--track {name}: needs the package {name}, which isn't installed. Run: pip install {name}"
    for begin in (kind.check, lambda: kind.create(tmp_path, CONFIG)):
        with pytest.raises(PluginError) as caught:
            begin()
        assert str(caught.value) == says
    assert list(tmp_path.iterdir()) == []
    failing_import(name, ModuleNotFoundError("No module named 'absl'", name="absl.flags"))
    with pytest.raises(PluginError, match=rf"{name}, which needs absl, which isn't installed. Run: pip install {name}"):
        kind.check()
    failing_import(name, TypeError("Descriptors cannot\nbe created"))
    with pytest.raises(PluginError, match=rf"imported: Descriptors cannot be created. Run: pip install -U {name}"):
        kind.check()


def test_file_trackers_need_no_package() -> None:
    for name in ("csv", "json"):
        get_plugins().trackers.get(name).check()


# ------------------------------------------------------------------ TensorBoard


def _events(folder: Path) -> Any:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


@needs_module("tensorboard")
def test_tensorboard_has_each_point_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    tracker = create_tracker("tensorboard", tmp_path)
    for step, metrics in POINTS:
        tracker.log(step, metrics)
        last = _events(tmp_path).Scalars("ES")[-1]
        assert (last.step, last.value) == (step, metrics["ES"]), "there while the run goes on"
    tracker.close()
    events = _events(tmp_path)
    assert {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]} == EXPECTED
    (text,) = events.Tensors("config/text_summary")
    assert b"hparams.eps: 1.0" in text.tensor_proto.string_val[0]


@needs_module("tensorboard")
def test_tensorboard_has_every_point_of_a_resumed_run_once(tmp_path: Path) -> None:
    log_killed_and_resumed_run("tensorboard", tmp_path)
    events = _events(tmp_path)
    assert {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]} == EXPECTED


# ------------------------------------------------------------------ Weights & Biases


class FakeWandb(ModuleType):
    """The part of wandb that is used: a server that keeps runs, and refuses steps that go back."""

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
    by_metric: dict[str, list[Any]] = {}
    for step, values in stored.pop("points").items():
        for name, value in values.items():
            by_metric.setdefault(name, []).append((step, value))
    assert by_metric == EXPECTED
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

    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("server\ngone")

    monkeypatch.setattr(FakeWandbRun, "log", gone)
    monkeypatch.setattr(FakeWandbRun, "finish", gone)
    for step, metrics in POINTS:
        tracker.log(step, metrics)
    tracker.close()
    assert caplog.messages == [
        "tracker wandb: the point at 1 edits isn't recorded: server gone. The run continues; its metrics.jsonl has "
        "every point.",
        "tracker wandb: the run couldn't be ended: server gone.",
        "tracker wandb: 3 points aren't recorded",
    ]


def _wandb_records(data: bytes, block: int = 1 << 15) -> Iterator[bytes]:
    """Read wandb's file: behind 7 bytes, LevelDB's log of records, which are cut where a block ends."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = block - position % block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):  # being written
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
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
    by_metric: dict[str, list[Any]] = {}
    for history in (record.history for record in records if record.WhichOneof("record_type") == "history"):
        for name, value in ((item.key or item.nested_key[0], json.loads(item.value_json)) for item in history.item):
            if not name.startswith("_"):
                by_metric.setdefault(name, []).append((history.step.num, value))
    assert by_metric == EXPECTED
    assert json.loads((tmp_path / IDS).read_text()) == {"wandb": file.stem.removeprefix("run-")}


# ------------------------------------------------------------------ MLflow


class FakeMlflow(ModuleType):
    """The part of mlflow that is used: like the real one, it keeps every value of a step, and parameters for good."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, SimpleNamespace] = {}
        self.experiments: dict[str, str] = {}
        self.uris: list[str] = []

    def MlflowClient(self, tracking_uri: str) -> FakeMlflow:
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = str(len(self.experiments))
        return self.experiments[name]

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        assert experiment_id in self.experiments.values()
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = SimpleNamespace(name=run_name, metrics=[], params={}, status="RUNNING")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def get_run(self, run_id: str) -> Any:
        return self.runs[run_id]

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    def set_terminated(self, run_id: str) -> None:
        self.runs[run_id].status = "FINISHED"

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [metric for metric in self.runs[run_id].metrics if metric.key == key]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run_id].metrics += metrics
        for param in params:
            assert param.key not in self.runs[run_id].params and len(param.value) <= 500
            self.runs[run_id].params[param.key] = param.value


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake = FakeMlflow()
    entities = ModuleType("mlflow.entities")
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # type: ignore[attr-defined]
    entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return fake


def _history(run: Any) -> dict[str, list[Any]]:
    by_metric: dict[str, list[Any]] = {}
    for metric in run.metrics:
        by_metric.setdefault(metric.key, []).append((metric.step, metric.value))
    return by_metric


def test_mlflow_has_every_point_of_a_resumed_run_once(mlflow: FakeMlflow, tmp_path: Path) -> None:
    log_killed_and_resumed_run("mlflow", tmp_path)
    (run,) = mlflow.runs.values()
    assert _history(run) == EXPECTED
    assert run.params == {"method": "GRACE", "hparams.eps": "1.0", "hparams.layers": "[1, 2]"}
    assert (run.status, run.name) == ("FINISHED", tmp_path.name)
    assert set(mlflow.uris) == {f"sqlite:///{tmp_path}/mlflow.db"}


def test_a_deleted_mlflow_run_is_replaced_by_a_new_one(
    mlflow: FakeMlflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal.jsonl").write_text("{}\n")
    store_id(tmp_path, "mlflow", "deleted")
    tracker = create_tracker("mlflow", tmp_path)
    tracker.log(*POINTS[0])
    assert _history(mlflow.runs["run0"])["ES"] == [(1, 1.0)]
    assert "starts a new run, since run deleted can't be resumed" in caplog.text
    assert stored_id(tmp_path, "mlflow") == "run0"


def test_mlflow_takes_uri_and_experiment_from_the_environment(
    mlflow: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    create_tracker("mlflow", tmp_path).close()
    create_tracker("mlflow", tmp_path).close()
    assert (mlflow.uris, list(mlflow.experiments), len(mlflow.runs)) == (["http://here"] * 2, ["mine"], 2)


def test_an_unreachable_mlflow_server_is_refused(
    mlflow: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(mlflow, "get_experiment_by_name", refuse)
    with pytest.raises(PluginError, match=r"--track mlflow: can't start a run in sqlite:.*: nobody listens\. Set"):
        create_tracker("mlflow", tmp_path)


@pytest.fixture
def real_mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return importlib.import_module("mlflow")


@needs_module("mlflow")
@needs_module("sqlalchemy")
def test_the_real_mlflow_records_every_point_of_a_resumed_run(real_mlflow: Any, tmp_path: Path) -> None:
    log_killed_and_resumed_run("mlflow", tmp_path)
    client = real_mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("easyedit-lifelong")
    (run,) = client.search_runs([experiment.experiment_id])
    points = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert points == EXPECTED
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert run.data.params["hparams.layers"] == "[1, 2]"
