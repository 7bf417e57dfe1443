"""The covariance engine ``easyedit``: EasyEdit's ``layer_stats`` gives the native engine's moments and files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from easyedit_lifelong import CoachHookHyperParams, GraceHyperParams
from easyedit_lifelong.bridge import easyedit_covariance
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.covariance import collect_covariance, native_engine, obtain_moments
from easyedit_lifelong.errors import (
    CovarianceError,
    DataError,
    EasyEditMissingError,
    HyperParameterError,
    PluginError,
)
from tests.support.second_moments import MODULES, make_texts
from tests.support.tiny_models import build_model, build_tokenizer, state_of

TEXTS = [*make_texts(60, seed=9), "", *make_texts(50, seed=2), " "]


COACHHOOK = {
    "layers": [1],
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
}


class TokenizerWithStartToken:
    """A tokenizer that begins every text with a special token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
        if isinstance(text, str):
            return {"input_ids": self.encode(text)}
        return {"input_ids": [self.encode(part, **options) for part in text]}

    def encode(self, text: str, max_length: int | None = None, **_: Any) -> list[int]:
        return [1, *self._tokenizer.encode(text)][:max_length]


def _fail_if_called(*_: Any, **__: Any) -> None:
    raise AssertionError("second moments were collected, or a model loaded, against expectation")


@pytest.fixture(params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def layer_stats(easyeditor: Any) -> Any:
    return importlib.import_module("easyeditor.models.rome.layer_stats")


@pytest.fixture
def model(kind: str) -> Any:
    return build_model(kind)


@pytest.mark.parametrize("options", [{}, {"samples": 300}, {"context": 7}, {"dtype": "float64"}, {"seed": 0}])
@pytest.mark.parametrize("wrapper", [lambda tokenizer: tokenizer, TokenizerWithStartToken])
def test_both_engines_give_the_same_moments_and_files(
    layer_stats: Any, kind: str, model: Any, tmp_path: Path, options: dict[str, Any], wrapper: Callable[[Any], Any]
) -> None:
    """From the same documents, two of them without text; entries differ by rounding only."""
    tokenizer, options = wrapper(build_tokenizer()), {"samples": 110, **options}
    found = {
        engine: collect_covariance(model, tokenizer, [2, 1], TEXTS, out=tmp_path / engine, engine=engine, **options)
        for engine in ("native", "easyedit")
    }
    assert list(found["easyedit"]) == [MODULES[kind].format(layer) for layer in (2, 1)]
    for module, native in found["native"].items():
        easyedit = found["easyedit"][module]
        assert (easyedit.count, easyedit.moment.dtype) == (native.count, torch.float32)
        assert torch.equal(easyedit.moment, easyedit.moment.t())
        torch.testing.assert_close(easyedit.moment, native.moment, rtol=1e-4, atol=1e-5)
        files = [Path(moment.source) for moment in (native, easyedit)]
        assert files[0].relative_to(tmp_path / "native") == files[1].relative_to(tmp_path / "easyedit")
        native_sidecar, easyedit_sidecar = (json.loads(file.with_suffix(".json").read_text()) for file in files)
        shared = set(native_sidecar) - {"engine", "bytes", "seconds", "created"}
        assert {name: easyedit_sidecar[name] for name in shared} == {name: native_sidecar[name] for name in shared}
        assert (native_sidecar["engine"], easyedit_sidecar["engine"]) == ("native", "easyedit")
        with np.load(files[0]) as a, np.load(files[1]) as b:
            assert {name: a[name].dtype for name in a.files} == {name: b[name].dtype for name in b.files}


@pytest.mark.parametrize("engines", [("easyedit", "native"), ("native", "easyedit")])
def test_each_engine_uses_files_that_the_other_stored(
    layer_stats: Any, model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: Any
) -> None:
    first = collect_covariance(model, tokenizer, [1], TEXTS, samples=30, out=tmp_path, engine=engines[0])
    monkeypatch.setattr(native_engine, "_read_blocks", _fail_if_called)
    monkeypatch.setattr(layer_stats, "layer_stats", _fail_if_called)
    reused = collect_covariance(model, tokenizer, [1], TEXTS, samples=30, out=tmp_path, engine=engines[1])
    for module, moment in first.items():
        assert torch.equal(moment.moment, reused[module].moment)
        assert moment.source == reused[module].source
    with torch.no_grad():
        model.get_input_embeddings().weight[9, 3] += 1
    with pytest.raises(CovarianceError, match=r"fingerprint is .* there, .* here"):
        collect_covariance(model, tokenizer, [1], TEXTS, samples=30, out=tmp_path, engine=engines[1])


def test_both_engines_read_a_corpus_file(layer_stats: Any, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(text for text in TEXTS if text.strip()))
    native, theirs = (
        collect_covariance(model, tokenizer, [0], corpus, samples=50, out=tmp_path / engine, engine=engine)
        for engine in ("native", "easyedit")
    )
    for module in native:
        assert native[module].count == theirs[module].count
        torch.testing.assert_close(theirs[module].moment, native[module].moment, rtol=1e-4, atol=1e-5)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('"one"\n{"text": 5}\n')
    with pytest.raises(DataError, match=r"^\S*bad.jsonl, record 1: has no field 'text'"):
        collect_covariance(model, tokenizer, [0], bad, samples=9, out=tmp_path, engine="easyedit")


def test_documents_are_counted_if_both_numbers_are_given(
    layer_stats: Any, kind: str, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    module = MODULES[kind].format(1)
    given = {"stats_dir": tmp_path, "dataset": TEXTS, "n_samples": 20, "n_tokens": 50}
    theirs = obtain_moments(model, tokenizer, [module], engine="easyedit", **given)[module]
    assert theirs.source.endswith("_mom2_20.npz")
    assert json.loads(Path(theirs.source).with_suffix(".json").read_text())["documents"] == 20
    with pytest.raises(CovarianceError, match="EasyEdit counts documents, not tokens"):
        collect_covariance(model, tokenizer, [1], TEXTS, tokens=50, out=tmp_path, engine="easyedit")


def test_the_model_easyedit_and_the_random_state_are_left_unchanged(
    layer_stats: Any, model: Any, tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model.train()
    before, names, generator = state_of(model), dict(vars(layer_stats)), torch.get_rng_state()
    reported: list[tuple[int, int]] = []
    collect_covariance(
        model,
        tokenizer,
        [1, 2],
        TEXTS,
        samples=110,
        out=tmp_path,
        engine="easyedit",
        seed=5,
        progress=lambda done, total: reported.append((done, total)),
    )
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert vars(layer_stats) == names
    assert torch.equal(torch.get_rng_state(), generator)
    assert reported == [(100, 220), (110, 220), (210, 220), (220, 220)]
    assert capfd.readouterr().out == ""
    sidecars = [json.loads(file.read_text()) for file in tmp_path.rglob("*.json")]
    assert [sidecar["seed"] for sidecar in sidecars] == [0, 0], (
        "the files name a seed that EasyEdit, which always takes 0, didn't use"
    )


def test_a_failure_of_layer_stats_names_the_module(
    layer_stats: Any, kind: str, model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no\nlength")

    monkeypatch.setattr(layer_stats, "layer_stats", fail)
    with pytest.raises(CovarianceError) as caught:
        collect_covariance(model, tokenizer, [1], TEXTS, samples=9, out=tmp_path, engine="easyedit")
    module = MODULES[kind].format(1)
    assert str(caught.value) == f"{module}: EasyEdit's layer_stats failed: NotImplementedError: no length"


def test_nan_keys_and_documents_without_tokens_are_refused(
    layer_stats: Any, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(CovarianceError, match="its documents hold no tokens"):
        collect_covariance(model, tokenizer, [1], ["", " "], samples=9, out=tmp_path, engine="easyedit")
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = float("nan")
    with pytest.raises(CovarianceError, match=r"1.mlp.*: the keys hold NaN or infinity"):
        collect_covariance(model, tokenizer, [1], TEXTS, samples=9, out=tmp_path, engine="easyedit")
    assert not list(tmp_path.rglob("*.npz"))


# ------------------------------------------------------------------ what can't be


def test_an_unknown_engine_and_a_missing_easyedit_are_refused(
    llama: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise EasyEditMissingError("EasyEdit isn't there")

    with pytest.raises(PluginError, match=r"no covariance engine is called 'easy'.*Known: easyedit, native"):
        collect_covariance(llama, tokenizer, [1], TEXTS, samples=9, out=tmp_path, engine="easy")
    monkeypatch.setattr(easyedit_covariance, "require_easyedit", missing)
    with pytest.raises(EasyEditMissingError):
        collect_covariance(llama, tokenizer, [1], TEXTS, samples=9, out=tmp_path, engine="easyedit")
    native = collect_covariance(llama, tokenizer, [1], TEXTS, samples=9, out=tmp_path)
    found = collect_covariance(llama, tokenizer, [1], TEXTS, samples=9, out=tmp_path, engine="easyedit")
    assert list(found) == list(native), "stored moments need EasyEdit"


def test_text_sampled_from_the_model_is_refused(layer_stats: Any, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match="can't read text that is sampled from the model itself"):
        collect_covariance(model, tokenizer, [1], "self", samples=9, out=tmp_path, engine="easyedit")


# ------------------------------------------------------------------ command line and hyperparameter files


@pytest.mark.parametrize("selected_by", ["option", "file"])
def test_an_option_or_a_file_selects_the_engine(
    layer_stats: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], selected_by: str
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS))
    words = ["--model", checkpoint, "--device", "cpu", "--layers", 1, "--corpus", corpus, "--out", tmp_path / "stats"]
    if selected_by == "option":
        words += ["--samples", 20, "--engine", "easyedit"]
    else:
        values = {"alg_name": "MEMIT", "mom2_engine": "easyedit", "mom2_n_samples": 20}
        (tmp_path / "memit.yaml").write_text(yaml.safe_dump(values))
        words += ["--hparams", tmp_path / "memit.yaml"]
    assert main(["covariance", *map(str, words)]) == 0
    (sidecar,) = (tmp_path / "stats").rglob("*.json")
    content = json.loads(sidecar.read_text())
    assert (content["engine"], content["samples"], content["documents"]) == ("easyedit", 20, 20)
    assert str(content["count"]) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "easyedit", "--corpus", "self", "--samples", "9"], "sampled from the model itself"),
        (["--engine", "easyedit", "--corpus", "{corpus}", "--tokens", "9"], "counts documents, not tokens"),
        (["--engine", "easy", "--samples", "9"], "no covariance engine is called 'easy'"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    easyeditor: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("easyedit_lifelong.commands.covariance.load_model", _fail_if_called)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS))
    given = ["--model", "m", "--layers", "1", "--out", str(tmp_path), *(word.format(corpus=corpus) for word in words)]
    assert main(["covariance", *given]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (CoachHookHyperParams, COACHHOOK),
        (GraceHyperParams, {"inner_params": ["model.layers[1].mlp.down_proj.weight"]}),
    ],
)
def test_mom2_engine_is_native_by_default_and_must_be_known(cls: Any, values: dict[str, Any]) -> None:
    assert cls.from_values({"model_name": "m", **values}, "f").mom2_engine == "native"
    assert cls.from_values({"model_name": "m", **values, "mom2_engine": "easyedit"}, "f").mom2_engine == "easyedit"
    with pytest.raises(HyperParameterError, match="mom2_engine: 'easy' isn't one of native, easyedit"):
        cls.from_values({"model_name": "m", **values, "mom2_engine": "easy"}, "f")


def test_methods_collect_moments_with_their_hyperparameters_engine(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyedit_lifelong.methods.locate_edit import moments
    from easyedit_lifelong.methods.shared import second_moments
    from easyedit_lifelong.methods.shared.subject_keys import whitening

    engines: list[str] = []

    def obtain(model: Any, tokenizer: Any, modules: Any, *, engine: str, **_: Any) -> Any:
        engines.append(engine)
        raise CovarianceError("enough")

    hparams = CoachHookHyperParams.from_values({"model_name": "m", **COACHHOOK, "mom2_engine": "easyedit"}, "f")
    path = "model.layers.1.mlp.down_proj"
    grace = GraceHyperParams(model_name="m", inner_params=[path], mom2_engine="easyedit")
    monkeypatch.setattr(second_moments, "obtain_moments", obtain)
    with pytest.raises(CovarianceError, match="enough"):
        moments.second_moments(llama, tokenizer, hparams)
    with pytest.raises(CovarianceError, match="enough"):
        whitening.whitening_for(llama, tokenizer, path, grace)
    assert engines == ["easyedit", "easyedit"]
