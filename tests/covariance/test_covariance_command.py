"""The command ``easyedit-lifelong covariance`` collects, merges and refuses second moments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands.main import main
from easyedit_lifelong.covariance.npz import read_moments
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.number_ranges import parse_layers
from tests.support.second_moments import make_texts

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "some text.txt"
    path.write_text("\n\n".join(make_texts(60)))
    return path


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "300")

    def call(*words: Any, model: bool = True) -> tuple[int, str, str]:
        model_options = ["--model", checkpoint, "--device", "cpu"] if model else []
        try:
            code = main(["covariance", *map(str, [*model_options, *words])])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to load a model fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("easyedit_lifelong.commands.covariance.load_model", fail)


def test_ranges_and_lists_of_layers_are_parsed() -> None:
    assert parse_layers("3-7,9") == [3, 4, 5, 6, 7, 9]
    assert parse_layers("2") == [2]
    assert parse_layers(" 4, 1-2 ,2") == [4, 1, 2]
    for invalid in ("", "a", "3-", "-3", "7-3", "1,,2", "1.5", "²"):
        with pytest.raises(CovarianceError, match="isn't a list of layers such as 13-17"):
            parse_layers(invalid)


def test_moments_are_written_and_their_files_are_listed(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats"
    code, text, _ = run("--layers", "1-2", "--corpus", corpus, "--tokens", 100, "--out", out)
    assert code == 0
    files = sorted(out.rglob("*.npz"))
    assert [file.name for file in files] == [
        f"model.layers.{layer}.mlp.down_proj_float32_mom2_100tokens.npz" for layer in (1, 2)
    ]
    assert files[0].parent.name == "some_text_stats"
    assert "key size" in text and "editors will regularise" in text
    for file in files:
        assert str(file.parent) in text and read_moments(file).count == 100
    code, text, _ = run("--layers", "1-2", "--corpus", corpus, "--tokens", 100, "--out", out)
    assert code == 0 and str(out) in text  # the files of the first call are found


def test_the_default_corpus_is_text_sampled_from_the_model(run: Run, tmp_path: Path) -> None:
    code, text, _ = run("--layers", 1, "--out", tmp_path / "stats")
    assert code == 0 and "text sampled from the model itself" in text
    (file,) = (tmp_path / "stats").rglob("*.npz")
    assert file.parent.name == "self-sampled_stats" and read_moments(file).count == 480


def test_options_determine_the_names_of_the_files(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats"
    code, _, _ = run(
        "--layers",
        1,
        "--corpus",
        corpus,
        "--samples",
        9,
        "--dtype",
        "float64",
        "--context",
        12,
        "--out",
        out,
        "--easyedit-samples",
        1000,
    )
    assert code == 0
    names = sorted({file.name.partition("_float64")[2] for file in out.rglob("*.npz")})
    assert names == ["_mom2_1000.npz", "_mom2_t12_9.npz"]


def test_a_hyperparameter_file_supplies_the_options_not_given(
    run: Run, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    values = {
        "alg_name": "MEMIT",
        "model_name": str(checkpoint),
        "device": "cpu",
        "layers": [0, 3],
        "rewrite_module_tmp": "model.layers.{}.mlp.up_proj",
        "stats_dir": str(tmp_path / "memit_stats"),
        "mom2_dataset": str(corpus),
        "mom2_n_samples": 7,
        "mom2_dtype": "float32",
        "clamp_norm_factor": 4,
    }
    (tmp_path / "memit.yaml").write_text(yaml.safe_dump(values))
    code, _, err = run("--hparams", tmp_path / "memit.yaml", model=False)
    assert code == 0, err
    names = sorted(file.name for file in (tmp_path / "memit_stats").rglob("*.npz"))
    assert names == [f"model.layers.{layer}.mlp.up_proj_float32_mom2_7.npz" for layer in (0, 3)]
    code, _, err = run("--hparams", tmp_path / "memit.yaml", "--layers", 1, "--tokens", 50, "--out", tmp_path / "o")
    assert code == 0, err
    assert [f.name for f in (tmp_path / "o").rglob("*.npz")] == ["model.layers.1.mlp.up_proj_float32_mom2_50tokens.npz"]


def test_a_shipped_hyperparameter_file_is_found_by_name(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = run(
        "--hparams",
        "CoachHook/smollm2-135m",
        "--layers",
        "0-1",
        "--corpus",
        "self",
        "--tokens",
        60,
        "--out",
        tmp_path / "stats",
    )
    assert code == 0, err
    assert len(list((tmp_path / "stats").rglob("*60tokens.npz"))) == 2


def test_merge_joins_two_files_and_needs_an_output(run: Run, corpus: Path, tmp_path: Path) -> None:
    second = tmp_path / "more.txt"
    second.write_text("\n\n".join(make_texts(60, seed=1)))
    for text in (corpus, second):
        assert run("--layers", 1, "--corpus", text, "--tokens", 100, "--out", tmp_path / "stats")[0] == 0
    files = sorted((tmp_path / "stats").rglob("*.npz"))
    code, text, _ = run("--merge", *files, "--out", tmp_path / "all.npz", model=False)
    assert code == 0 and "200 tokens of 2 files" in text
    assert read_moments(tmp_path / "all.npz").count == 200
    code, _, err = run("--merge", *files, model=False)
    assert code == 1 and "give the merged file with --out" in err


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "x"], "isn't a list of layers"),
        ([], "give --layers"),
        (["--layers", "1", "--tokens", "5", "--samples", "5"], "either --tokens or --samples"),
        (["--layers", "1", "--corpus", "nowhere.jsonl"], "no such corpus file"),
        (["--layers", "1", "--corpus", "no such thing"], "is no file, folder or dataset"),
        (["--layers", "1", "--corpus", "{empty}"], "holds no documents"),
        (["--layers", "1", "--device", "abacus"], "'abacus' is not a device"),
        (["--layers", "1", "--out", "{empty}"], "can't be made"),
        (["--layers", "1", "--hparams", "nowhere"], "nowhere"),
        (["--layers", "1", "--hparams", "{half}"], "mom2_dtype|dtype: 'float16'"),
        (["--layers", "1", "--hparams", "{odd}"], "must hold one {} for the layer"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    run: Run, tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path / "cache"))
    files = {"empty": ("empty.txt", "\n"), "half": ("half.yaml", "mom2_dtype: float16"), "odd": ("odd.yaml", "")}
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "half.yaml").write_text("alg_name: MEMIT\nmom2_dtype: float16\n")
    (tmp_path / "odd.yaml").write_text("alg_name: MEMIT\nrewrite_module_tmp: model.layers\n")
    code, _, err = run(*(word.format(**{k: tmp_path / name for k, (name, _) in files.items()}) for word in words))
    assert code == 1
    assert re.search(message, err), err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert not list(tmp_path.rglob("*.npz"))


def test_a_missing_model_and_invalid_numbers_are_refused(run: Run) -> None:
    code, _, err = run("--layers", "1", model=False)
    assert code == 1 and "give --model" in err
    code, _, err = run("--layers", "1", "--tokens", "0")
    assert code == 2 and "greater than 0" in err
    code, _, err = run("--layers", "1", "--dtype", "float16")
    assert code == 2


def test_a_layer_that_the_model_lacks_is_refused(run: Run, corpus: Path, tmp_path: Path) -> None:
    code, _, err = run("--layers", "3-4", "--corpus", corpus, "--out", tmp_path / "stats")
    assert code == 1 and "no layer 4; it has 0 to 3" in err
