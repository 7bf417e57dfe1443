"""EasyEdit's ``layer_stats`` and our engine read each other's files and compute the same statistics."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from easyedit_lifelong.bridge import find_easyedit, install
from easyedit_lifelong.covariance import collect_covariance, obtain_moments
from tests.support.second_moments import MODULES, make_texts
from tests.support.tiny_models import build_model, build_tokenizer

TEXTS = [*make_texts(40, seed=9), ""]


@pytest.fixture(scope="module")
def layer_stats() -> Any:
    if find_easyedit() is None:
        pytest.skip("EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)")
    pytest.importorskip("datasets")
    install()
    return importlib.import_module("easyeditor.models.rome.layer_stats")


@pytest.fixture(params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pair(kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    model = build_model(kind)
    # Both flavours of EasyEdit make the same folder of a name without a slash.
    monkeypatch.setattr(model.config, "_name_or_path", "tiny")
    return model, build_tokenizer()


def run_layer_stats(module: Any, model: Any, tokenizer: Any, layer: str, folder: Path, **options: Any) -> Any:
    defaults = {"to_collect": ["mom2"], "sample_size": 25, "precision": "float32", "hparams": SimpleNamespace(device=0)}
    return module.layer_stats(model, tokenizer, layer, folder, "wikitext", **{**defaults, **options})


@pytest.fixture
def loads(layer_stats: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give EasyEdit and our engine the same texts as ``wikitext``; return the list of loads."""
    import datasets

    calls: list[Any] = []

    def load(*names: str) -> Any:
        calls.append(names)
        return datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TEXTS})})

    monkeypatch.setattr(layer_stats, "load_dataset", load)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_layer_stats_finds_and_loads_our_files(
    layer_stats: Any, loads: list[Any], kind: str, pair: tuple[Any, Any], tmp_path: Path
) -> None:
    layer = MODULES[kind].format(2)
    ours = collect_covariance(*pair, [2], "wikitext", samples=25, out=tmp_path)[layer]
    loads.clear()
    stat = run_layer_stats(layer_stats, *pair, layer, tmp_path)
    assert loads == []  # the file was found, so that no text was loaded
    assert torch.equal(stat.mom2.moment().float(), ours.moment) or torch.allclose(
        stat.mom2.moment().float(), ours.moment, rtol=1e-6
    )
    assert stat.mom2.count == ours.count


def test_our_reader_finds_and_loads_the_files_of_layer_stats(
    layer_stats: Any, loads: list[Any], kind: str, pair: tuple[Any, Any], tmp_path: Path
) -> None:
    layer = MODULES[kind].format(2)
    stat = run_layer_stats(layer_stats, *pair, layer, tmp_path)
    loads.clear()
    found = obtain_moments(*pair, [layer], stats_dir=tmp_path, dataset="wikitext", n_samples=25)[layer]
    assert loads == []
    assert Path(found.source).parent.parent.name == "tiny"
    assert found.count == stat.mom2.count
    torch.testing.assert_close(found.moment, stat.mom2.moment().float(), rtol=1e-6, atol=0)


def test_both_engines_give_the_same_statistics_in_the_same_file_format(
    layer_stats: Any, loads: list[Any], kind: str, pair: tuple[Any, Any], tmp_path: Path
) -> None:
    layer = MODULES[kind].format(1)
    stat = run_layer_stats(layer_stats, *pair, layer, tmp_path / "easyedit", precision="float64")
    ours = collect_covariance(*pair, [1], "wikitext", samples=25, dtype="float64", out=tmp_path / "ours")[layer]
    assert ours.count == stat.mom2.count
    torch.testing.assert_close(ours.moment.double(), stat.mom2.moment(), rtol=1e-4, atol=1e-5)
    (our_file,), (easyedit_file,) = (list((tmp_path / name).rglob("*.npz")) for name in ("ours", "easyedit"))
    assert our_file.relative_to(tmp_path / "ours") == easyedit_file.relative_to(tmp_path / "easyedit")
    with np.load(our_file) as a, np.load(easyedit_file) as b:
        assert set(a.files) == set(b.files)
        for key in ("mom2.count", "sample_size"):
            assert a[key] == b[key] and a[key].dtype == b[key].dtype
        assert a["mom2.mom2"].dtype == b["mom2.mom2"].dtype
        assert str(a["mom2.constructor"]) == str(b["mom2.constructor"])


def test_layer_stats_loads_a_stand_in_for_its_sample_count(
    layer_stats: Any, loads: list[Any], kind: str, pair: tuple[Any, Any], tmp_path: Path
) -> None:
    layer = MODULES[kind].format(2)
    ours = collect_covariance(*pair, [2], "wikitext", tokens=200, out=tmp_path, easyedit_samples=100000)[layer]
    loads.clear()
    stat = run_layer_stats(layer_stats, *pair, layer, tmp_path, sample_size=100000)
    assert loads == [] and stat.mom2.count == 200
    torch.testing.assert_close(stat.mom2.moment().float(), ours.moment, rtol=1e-6, atol=0)


def test_a_file_with_easyedits_unformatted_context_name_is_found(
    layer_stats: Any, loads: list[Any], kind: str, pair: tuple[Any, Any], tmp_path: Path
) -> None:
    layer = MODULES[kind].format(2)
    stat = run_layer_stats(layer_stats, *pair, layer, tmp_path, batch_tokens=16)
    (file,) = tmp_path.rglob("*.npz")
    assert "_t{batch_tokens}_25" in file.name
    found = obtain_moments(*pair, [layer], stats_dir=tmp_path, dataset="wikitext", n_samples=25)[layer]
    assert (found.source, found.count) == (str(file), stat.mom2.count)
