"""Stored second moments that do not belong to the model or the settings are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.covariance import collect_covariance, obtain_moments
from easyedit_lifelong.covariance.key_modules import layer_modules
from easyedit_lifelong.errors import CovarianceError, DataError, ModelError
from tests.support.stored_moments import KEY_SIZE, MODULE, only_moment, publish_moments


@pytest.mark.usefixtures("no_collection")
def test_a_published_file_of_another_size_or_amount_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = publish_moments(
        tmp_path / "org_tiny" / "wikipedia_stats" / f"{MODULE}_float32_mom2_9.npz", 9, key_size=KEY_SIZE + 1
    )
    options: dict[str, Any] = {"stats_dir": tmp_path, "dataset": "wikipedia", "n_samples": 9}
    with pytest.raises(CovarianceError, match=r"49x49.*size 48"):
        obtain_moments(model, tokenizer, [MODULE], **options)
    path.unlink()
    publish_moments(path, 10)
    with pytest.raises(CovarianceError, match="holds 10 samples, but 9"):
        obtain_moments(model, tokenizer, [MODULE], **options)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CovarianceError, match="truncated"):
        obtain_moments(model, tokenizer, [MODULE], **options)


def test_moments_of_other_weights_are_refused(model: Any, tokenizer: Any, texts: list[str], tmp_path: Path) -> None:
    moment = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(CovarianceError, match=r"fingerprint is .* there, .* here.*Delete the file") as caught:
        collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path)
    assert moment.source in str(caught.value)


def test_moments_of_another_text_of_the_same_name_are_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text("the capital of France\n\nwho wrote Hamlet")
    collect_covariance(model, tokenizer, [1], corpus, tokens=5, out=tmp_path)
    corpus.write_text("the capital of Peru\n\nwho wrote Hamlet")
    with pytest.raises(CovarianceError, match=r"corpus is kind files.*there"):
        collect_covariance(model, tokenizer, [1], corpus, tokens=5, out=tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("module", "x"),
        ("tokens", 51),
        ("samples", 3),
        ("dtype", "float64"),
        ("context", 32),
        ("corpus", {"kind": "self-sampled"}),
    ],
)
def test_a_sidecar_that_contradicts_the_settings_is_refused(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path, field: str, value: Any
) -> None:
    moment = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    sidecar = Path(moment.source).with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), field: value}))
    with pytest.raises(CovarianceError, match=f"{field} is "):
        collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', "\xff\xfe"])
def test_an_unreadable_sidecar_is_refused(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path, content: str
) -> None:
    moment = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    sidecar = Path(moment.source).with_suffix(".json")
    sidecar.write_bytes(content.encode("latin-1"))
    with pytest.raises(CovarianceError, match=r"tokens.json: (can't be read|format is)"):
        collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path)


def test_a_replaced_file_is_detected(model: Any, tokenizer: Any, texts: list[str], tmp_path: Path) -> None:
    moment = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    publish_moments(Path(moment.source))
    with pytest.raises(CovarianceError, match="truncated or replaced"):
        collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path)


def test_a_stand_in_never_replaces_published_statistics(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    path = publish_moments(tmp_path / "org_tiny" / "texts_stats" / f"{MODULE}_float32_mom2_9.npz", 9)
    before = path.read_bytes()
    with pytest.raises(CovarianceError, match="holds other statistics"):
        collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path, easyedit_samples=9)
    assert path.read_bytes() == before
    assert len(list(tmp_path.rglob("*.npz"))) == 1  # refused before anything was collected


def test_a_corpus_without_tokens_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match="hold no tokens"):
        collect_covariance(model, tokenizer, [1], ["", " "], tokens=50, out=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype: 'float16'"),
        ({"context": 65}, "context: 65 isn't between 1 and 64"),
        ({"tokens": 0}, "tokens: must be greater than 0"),
        ({"tokens": 5, "samples": 5}, "either tokens or samples"),
    ],
)
def test_invalid_arguments_are_refused(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path, options: Any, message: str
) -> None:
    with pytest.raises(CovarianceError, match=message):
        collect_covariance(model, tokenizer, [1], texts, out=tmp_path, **options)


def test_missing_layers_and_corpora_are_refused(model: Any, tokenizer: Any, texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layer 4; it has 0 to 3"):
        layer_modules(model, [4])
    with pytest.raises(ModelError, match=r"'model.layers' has 4 layers; valid numbers in this name: 0 to 3"):
        layer_modules(model, [9], "model.layers.{}.mlp.down_proj")
    with pytest.raises(CovarianceError, match="layers: none"):
        layer_modules(model, [])
    with pytest.raises(ModelError, match="not a linear projection"):
        collect_covariance(model, tokenizer, ["model.layers.1"], texts, tokens=5, out=tmp_path)
    with pytest.raises(DataError, match="no such corpus"):
        collect_covariance(model, tokenizer, [1], tmp_path / "nothing.txt", tokens=5, out=tmp_path)
