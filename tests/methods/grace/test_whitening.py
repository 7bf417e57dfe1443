"""Whitening of keys: the matrix against a float64 reference, and the second moments that it is computed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.covariance import obtain_moments
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.subject.subject_layer import SubjectAdaptor
from easyedit_lifelong.methods.shared.subject_keys import whitening
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitened, whitening_of
from tests.support.subjects import FACTS, codebook_of, edited, hparams_for, ids_of
from tests.support.thoroughness import examples
from tests.support.tiny_models import WORDS, build_model, build_tokenizer


def moment_of(width: int, seed: int, spread: float = 3.0) -> Tensor:
    """Return second moments that are much larger in some directions than in others."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    scales = torch.exp(spread * torch.randn(width, generator=generator, dtype=torch.float64))
    return rotation @ torch.diag(scales) @ rotation.t()


@pytest.mark.parametrize(("width", "rank"), [(2, 1), (8, 3), (8, 7), (8, 64), (100, 64), (70, 69)])
def test_leading_directions_are_scaled_to_the_average_of_the_others(width: int, rank: int) -> None:
    moment = moment_of(width, rank, 1.0).float().double()
    basis = whitening_of(moment.float(), rank)
    rank = min(rank, width - 1)
    assert basis.shape == (width, rank)
    assert basis.dtype == torch.float32
    squares, directions = torch.linalg.eigh(moment)
    others = squares[: width - rank].clamp_min(0).mean()
    scales = torch.cat([torch.ones(width - rank, dtype=torch.float64), (others / squares[width - rank :]).sqrt()])
    expected_matrix = directions @ torch.diag(scales) @ directions.t()
    vectors = torch.randn(50, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        whitened(vectors, basis).double(), vectors.double() @ expected_matrix, rtol=1e-4, atol=1e-4
    )
    matrix = whitened(torch.eye(width), basis).double()
    whitened_moment = matrix @ moment @ matrix
    lengths = (directions.t() @ whitened_moment @ directions).diagonal()[width - rank :]
    torch.testing.assert_close(lengths, others.expand(rank), rtol=1e-4, atol=1e-6)


@examples(100)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 1000), st.floats(0, 6))
def test_whitening_lengthens_no_vector(width: int, rank: int, seed: int, spread: float) -> None:
    basis = whitening_of(moment_of(width, seed, spread), rank)
    vectors = torch.randn(20, width, generator=torch.Generator().manual_seed(seed))
    assert bool((whitened(vectors, basis).norm(dim=1) <= vectors.norm(dim=1) * (1 + 1e-5)).all())


def test_whitening_of_singular_moments_is_finite() -> None:
    keys = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))  # fewer vectors than dimensions
    for moment in (keys.t() @ keys / 3, torch.zeros(10, 10), torch.ones(10, 10)):
        for rank in (2, 9, 64):
            assert bool(whitening_of(moment, rank).isfinite().all())


def test_vectors_become_float32_and_stay_unchanged_without_a_basis() -> None:
    vectors = torch.randn(3, 4, 5, dtype=torch.float64)
    assert torch.equal(whitened(vectors, None), vectors.float())
    assert whitened(vectors.bfloat16(), torch.zeros(5, 2)).dtype == torch.float32


# ------------------------------------------------------------------ second moments


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(0, len(WORDS), 3)), encoding="utf-8")
    return str(path)


def options_with_moments(corpus: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "deep": True,
        "whiten": True,
        "eps": 0.5,
        "n_iter": 5,
        "mom2_dataset": corpus,
        "mom2_n_tokens": 400,
        "stats_dir": str(tmp_path / "stats"),
    }


def test_keys_and_queries_are_whitened_by_the_key_layers_second_moments(corpus: str, tmp_path: Path, mode: str) -> None:
    options = options_with_moments(corpus, tmp_path)
    model, _, editor = edited("llama", mode, **options)
    (moment,) = obtain_moments(
        build_model("llama"),
        build_tokenizer(),
        [editor.path],
        stats_dir=tmp_path / "stats",
        dataset=corpus,
        n_tokens=400,
    ).values()
    assert isinstance(editor.adaptor, SubjectAdaptor)
    assert editor.adaptor.whitening is not None
    assert torch.equal(editor.adaptor.whitening, whitening_of(moment.moment))
    unwhitened = codebook_of(edited("llama", mode, **{**options, "whiten": False})[2])
    torch.testing.assert_close(
        codebook_of(editor).keys, whitened(unwhitened.keys, whitening_of(moment.moment)), rtol=1e-4, atol=1e-4
    )
    hits_before = codebook_of(editor).hits.total()
    model(**ids_of(FACTS[0]["prompt"]))
    assert codebook_of(editor).hits.total() == hits_before + 1, "the query was not whitened as the key was"


def test_second_moments_are_collected_once_and_looked_up_once_per_model(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_with_moments(corpus, tmp_path)
    codebook = codebook_of(edited("llama", "simple", **options)[2])

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("collected")

    monkeypatch.setattr("easyedit_lifelong.covariance.native_engine.KeyCollector", fail)
    model, _, editor = edited("llama", "simple", FACTS[:2], **options)
    monkeypatch.setattr(whitening, "named_moments", fail)  # a later call must not look for moments
    apply_grace_to_model(model, build_tokenizer(), FACTS[2:], editor.hparams)
    torch.testing.assert_close(
        codebook_of(editor).keys, codebook.keys
    )  # two batches of two edits instead of one of four
    with pytest.raises(AssertionError, match="collected"):
        edited("llama", "simple", **{**options, "mom2_n_tokens": 300})


def test_a_layer_without_second_moments_is_refused_and_the_model_unchanged(corpus: str, tmp_path: Path) -> None:
    model = build_model("llama")
    hparams = hparams_for("llama", "simple", **{**options_with_moments(corpus, tmp_path), "deep": False})
    hparams.inner_params = ["model.layers[1].mlp"]
    with pytest.raises(ModelError, match="linear projection"):
        apply_grace_to_model(model, build_tokenizer(), FACTS, hparams)
    assert not GraceEditor.all_of(model)
    assert set(model.__dict__) == set(build_model("llama").__dict__)
