"""Trackers that need another package: what they log, what they refuse, and TensorBoard."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.trackers.flat import flatten, numeric_metrics
from easyedit_lifelong.reporting.trackers.services import IDS, store_id, stored_id
from tests.support.tracker_points import (
    CONFIG,
    EXPECTED,
    POINTS,
    create_tracker,
    log_killed_and_resumed_run,
    needs_module,
)


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
    assert stored_id(tmp_path, "wandb") is None, "without a journal, the ids are those of another run"
    (tmp_path / "journal.jsonl").write_text("{}\n")
    assert (stored_id(tmp_path, "wandb"), stored_id(tmp_path, "mlflow"), stored_id(tmp_path, "x")) == ("a", "b", None)
    for broken in ("{", "[]", '{"wandb": 5}'):
        (tmp_path / IDS).write_text(broken)
        assert stored_id(tmp_path, "wandb") is None


@pytest.fixture
def failing_import(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Exception], None]:
    """Return a function that makes the import of a package fail with an error."""
    original = importlib.import_module

    def hide(package: str, error: Exception) -> None:
        def find(name: str, *rest: Any) -> Any:
            if name.partition(".")[0] == package:
                raise error
            return original(name, *rest)

        monkeypatch.setattr(importlib, "import_module", find)

    return hide


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_or_broken_package_is_refused_with_its_install_command(
    name: str, tmp_path: Path, failing_import: Callable[[str, Exception], None]
) -> None:
    kind = get_plugins().trackers.get(name)
    failing_import(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
    message = f"--track {name}: needs the package {name}, which isn't installed. Run: pip install {name}"
    for start in (kind.check, lambda: kind.create(tmp_path, CONFIG)):
        with pytest.raises(PluginError) as caught:
            start()
        assert str(caught.value) == message
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


def _events(folder: Path) -> Any:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def _scalars(events: Any) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@needs_module("tensorboard")
def test_tensorboard_has_each_point_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    tracker = create_tracker("tensorboard", tmp_path)
    for step, metrics in POINTS:
        tracker.log(step, metrics)
        last = _events(tmp_path).Scalars("ES")[-1]
        assert (last.step, last.value) == (step, metrics["ES"]), "the point isn't on disk while the run continues"
    tracker.close()
    events = _events(tmp_path)
    assert _scalars(events) == EXPECTED
    (text,) = events.Tensors("config/text_summary")
    assert b"hparams.eps: 1.0" in text.tensor_proto.string_val[0]


@needs_module("tensorboard")
def test_tensorboard_has_every_point_of_a_resumed_run_once(tmp_path: Path) -> None:
    log_killed_and_resumed_run("tensorboard", tmp_path)
    assert _scalars(_events(tmp_path)) == EXPECTED
