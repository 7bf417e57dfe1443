"""Second moments are read where they are stored and collected where they are not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from easyedit_lifelong.covariance import collect_covariance, moments_file, obtain_moments
from tests.support.second_moments import make_texts
from tests.support.stored_moments import KEY_SIZE, MODULE, only_moment, publish_moments
from tests.support.tiny_models import build_model


def test_stored_moments_are_read_back_bitwise(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = collect_covariance(model, tokenizer, [1, 2], texts, tokens=200, out=tmp_path)
    request.getfixturevalue("no_collection")
    again = collect_covariance(model, tokenizer, [2, 1], texts, tokens=200, out=tmp_path)
    assert list(again) == list(reversed(first))
    for module, moment in first.items():
        assert torch.equal(moment.moment, again[module].moment)
        assert (moment.count, moment.source) == (again[module].count, again[module].source) == (200, moment.source)


def test_only_missing_modules_are_collected(model: Any, tokenizer: Any, texts: list[str], tmp_path: Path) -> None:
    collect_covariance(model, tokenizer, [1], texts, tokens=200, out=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    found = collect_covariance(model, tokenizer, [1, 2], texts, tokens=200, out=tmp_path)
    assert len(found) == 2 and len(list(tmp_path.rglob("*.npz"))) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_file_names_hold_module_dtype_context_and_amount(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "org_tiny" / "wikipedia_stats"
    assert moments_file(tmp_path, model, "m", "wikipedia", "float32", 100) == folder / "m_float32_mom2_100.npz"
    assert moments_file(tmp_path, model, "m", "wikipedia", "float32") == folder / "m_float32_mom2.npz"
    tokens = moments_file(tmp_path, model, "m", "wikipedia", "float32", 100, n_tokens=5, context=7)
    assert tokens == folder / "m_float32_mom2_t7_5tokens.npz"


def test_without_a_folder_files_are_stored_in_the_cache(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path))
    moment = only_moment(obtain_moments(model, tokenizer, [MODULE], stats_dir=None, dataset=texts, n_tokens=50))
    assert Path(moment.source).is_relative_to(tmp_path / "stats" / "org_tiny" / "texts_stats")


def test_the_sidecar_describes_the_collection(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    moment = only_moment(collect_covariance(model, tokenizer, [1], "self", tokens=50, out=tmp_path, seed=4))
    content = json.loads(Path(moment.source).with_suffix(".json").read_text())
    for key, value in {
        "model": "org/tiny",
        "module": MODULE,
        "corpus": {"kind": "self-sampled"},
        "self_sampled": True,
        "tokens": 50,
        "samples": None,
        "dtype": "float32",
        "context": 64,
        "seed": 4,
        "key_size": KEY_SIZE,
        "count": 50,
        "documents": 1,
    }.items():
        assert content[key] == value
    assert len(content["fingerprint"]) == 64
    assert Path(moment.source).parent.name == "self-sampled_stats"


def test_the_default_amount_is_ten_tokens_per_key_dimension(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    texts = make_texts(200)
    assert only_moment(collect_covariance(model, tokenizer, [1], texts, out=tmp_path)).count == 10 * KEY_SIZE


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("folder", ["org_tiny", "tiny"])
@pytest.mark.parametrize("limit", ["", "_t{batch_tokens}", "_t1024"])
def test_published_files_are_found_under_every_name(
    model: Any, tokenizer: Any, tmp_path: Path, folder: str, limit: str
) -> None:
    path = publish_moments(tmp_path / folder / "wikipedia_stats" / f"{MODULE}_float32_mom2{limit}_100000.npz")
    for n_tokens in (None, 300):
        moment = only_moment(
            obtain_moments(
                model, tokenizer, [MODULE], stats_dir=tmp_path, dataset="wikipedia", n_samples=100000, n_tokens=n_tokens
            )
        )
        assert (moment.source, moment.count) == (str(path), 400)


@pytest.mark.usefixtures("no_collection")
def test_the_exact_name_is_preferred_and_then_the_longest_context(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    def found_name() -> str:
        found = obtain_moments(model, tokenizer, [MODULE], stats_dir=tmp_path, dataset="wikipedia", n_samples=7)
        return Path(only_moment(found).source).name

    names = [f"{MODULE}_float32_mom2{limit}_7.npz" for limit in ("_t100", "_t1000", "_t{batch_tokens}", "")]
    publish_moments(tmp_path / "org_tiny" / "wikipedia_stats" / f"{MODULE}_float32_mom2_tx_7.npz", 7)
    for name in names:
        publish_moments(tmp_path / "org_tiny" / "wikipedia_stats" / name, 7)
        assert found_name() == name


def test_a_collection_with_a_shorter_context_is_used_only_for_that_context(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    short = only_moment(collect_covariance(model, tokenizer, [1], texts, samples=5, context=9, out=tmp_path))
    full = only_moment(collect_covariance(model, tokenizer, [1], texts, samples=5, out=tmp_path))
    again = only_moment(collect_covariance(model, tokenizer, [1], texts, samples=5, context=9, out=tmp_path))
    assert short.source == again.source != full.source
    assert not torch.equal(short.moment, full.moment)


def test_stored_samples_are_used_instead_of_collecting_tokens(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With this context, the default contexts of samples and of tokens differ.
    monkeypatch.setattr(model.config, "max_position_embeddings", 1000)
    first = only_moment(collect_covariance(model, tokenizer, [1], texts, samples=5, out=tmp_path))
    request.getfixturevalue("no_collection")
    found = obtain_moments(model, tokenizer, [MODULE], stats_dir=tmp_path, dataset=texts, n_samples=5, n_tokens=70)
    assert only_moment(found).source == first.source


def test_a_published_file_is_used_with_a_note_that_weights_are_unchecked(
    model: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_moments(tmp_path / "org_tiny" / "wikipedia_stats" / f"{MODULE}_float32_mom2_9.npz", 9)
    with caplog.at_level(logging.INFO):
        obtain_moments(model, tokenizer, [MODULE], stats_dir=tmp_path, dataset="wikipedia", n_samples=9)
    assert "can't check that they are of this model's weights" in caplog.text


def test_moments_of_the_same_text_are_used_for_another_seed(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    first = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    again = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path, seed=1))
    assert torch.equal(first.moment, again.moment)


def test_a_sidecar_without_its_file_is_ignored(model: Any, tokenizer: Any, texts: list[str], tmp_path: Path) -> None:
    first = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    Path(first.source).unlink()
    again = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    assert torch.equal(first.moment, again.moment)


def test_different_settings_are_stored_in_different_files(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    options: list[dict[str, Any]] = [
        {"tokens": 50},
        {"tokens": 60},
        {"tokens": 50, "context": 9},
        {"samples": 5},
        {"samples": 5, "context": 9},
        {"tokens": 50, "dtype": "float64"},
    ]
    for option in options:
        collect_covariance(model, tokenizer, [1], texts, out=tmp_path, **option)
    assert len(list(tmp_path.rglob("*.npz"))) == len(options)


def test_a_copy_under_easyedits_name_stands_in_with_a_warning(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path, easyedit_samples=100000)
    copies = [tmp_path / name / "texts_stats" / f"{MODULE}_float32_mom2_100000.npz" for name in ("org_tiny", "tiny")]
    for copy in copies:
        sidecar = json.loads(copy.with_suffix(".json").read_text())
        assert (sidecar["stands_in_for_samples"], sidecar["tokens"], sidecar["count"]) == (100000, 50, 50)
        with np.load(copy) as archive:
            assert int(archive["sample_size"]) == 100000
    with caplog.at_level(logging.WARNING):
        stand_in = only_moment(collect_covariance(model, tokenizer, [1], texts, samples=100000, out=tmp_path))
    assert torch.equal(stand_in.moment, first.moment)
    assert "stands in for 100000 samples" in caplog.text
    # A second call with a copy in place is no error.
    collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path, easyedit_samples=100000)


def test_a_corpus_smaller_than_the_amount_gives_a_warning(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        collect_covariance(model, tokenizer, [1], texts, tokens=10**6, out=tmp_path)
    assert "holds only" in caplog.text


def test_the_folder_of_a_model_without_a_name_is_its_class(
    tokenizer: Any, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("gpt2")
    monkeypatch.setattr(model.config, "_name_or_path", "")
    moment = only_moment(collect_covariance(model, tokenizer, [1], texts, tokens=50, out=tmp_path))
    assert Path(moment.source).relative_to(tmp_path).parts[0] == "GPT2LMHeadModel"
