"""``consecutive``: the authors' arguments, and the hyperparameters that result from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.commands.consecutive import hparams_from_arguments
from easyedit_lifelong.commands.main import build_parser, main
from easyedit_lifelong.errors import HyperParameterError, LifelongError
from easyedit_lifelong.runs.hyperparameter_files import shipped_hparams

ARGUMENTS = {
    "stats_dir": ("some/stats", "some/stats"),
    "model": ("gpt2-xl", "gpt2-xl"),
    "data": ("f.json", "f.json"),
    "consecutive": ("0", 0),
    "bsz": ("30", 30),
    "mom2_update_weight": ("15000", 15000.0),
    "alpha_z": ("2.2", 2.2),
    "num_layers": ("3", 3),
    "edits": ("100", 100),
    "wohk": ("1", 1),
    "hparams": ("GRACE/gpt2-xl", "GRACE/gpt2-xl"),
    "method": ("MEMIT", "MEMIT"),
    "format": ("zsre", "zsre"),
    "eval_every": ("5", 5),
    "out": ("here", Path("here")),
    "device": ("cpu", "cpu"),
    "retention": ("r.json", "r.json"),
    "eval_at": ("1,10", (1, 10)),
    "eval_sample": ("7", 7),
    "edit_with": ("2", 2),
    "text": ("t.txt", "t.txt"),
    "task": ("qa", "qa"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_option_is_accepted_with_hyphens_and_with_underscores(name: str) -> None:
    written, value = ARGUMENTS[name]
    for spelling in (name, name.replace("_", "-")):
        arguments = build_parser().parse_args(["consecutive", f"--{spelling}", written])
        assert getattr(arguments, name) == value
        assert getattr(build_parser().parse_args(["consecutive", f"--{spelling}={written}"]), name) == value


@pytest.mark.parametrize("name", ["skip_unusable", "skip-unusable", "resume", "consecutive", "wohk"])
def test_a_switch_needs_no_value(name: str) -> None:
    assert getattr(build_parser().parse_args(["consecutive", f"--{name}"]), name.replace("-", "_")) in (True, 1)


def test_scope_accepts_the_same_options() -> None:
    """The authors' editing_scope.py has most of these options, too."""
    for name in ("stats_dir", "model", "data", "bsz", "mom2_update_weight", "alpha_z", "edits", "hparams"):
        for spelling in (name, name.replace("_", "-")):
            arguments = build_parser().parse_args(["scope", f"--{spelling}", ARGUMENTS[name][0]])
            assert getattr(arguments, name) == ARGUMENTS[name][1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--consecutive", "2"], "--consecutive"),
        (["--wohk", "2"], "--wohk"),
        (["--bsz", "0"], "'0' is not a whole"),
        (["--sample", "-1"], "--edits/--sample"),
        (["--mom2_update_weight", "0"], "'0' is not a number greater than 0"),
        (["--mom2-update-weight", "nan"], "'nan' is not a number"),
        (["--alpha_z", "high"], "--alpha"),
        (["--num_layers", "1.5"], "--num-layers"),
        (["--eval-every", "0"], "--eval-every"),
    ],
)
def test_a_bad_option_value_is_wrong_usage(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["consecutive", *words])
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


def hparams_of(*words: Any) -> Any:
    """Return the hyperparameters that result from a command line."""
    arguments = build_parser().parse_args(["consecutive", *map(str, words)])
    return hparams_from_arguments(arguments, arguments.method)


def test_options_override_the_hyperparameter_file() -> None:
    options = ("--bsz", 7, "--device", "cpu", "--model", "other/place", "--seed", 3)
    hparams = hparams_of(*options, "--hparams", "GRACE/smollm2-135m")
    assert (hparams.batch_size, hparams.device, hparams.model_name, hparams.seed) == (7, "cpu", "other/place", 3)
    assert hparams.source.endswith("smollm2-135m.yaml"), "messages don't name the file"


def test_coachhooks_options_reach_its_hyperparameters() -> None:
    hparams = hparams_of(
        "--stats_dir", "x", "--bsz", 5, "--mom2_update_weight", 20, "--alpha_z", 1.5, "--num_layers", 2, "--wohk"
    )
    assert (hparams.alg_name, hparams.model_name) == ("CoachHook", "smollm2-135m")
    assert (hparams.stats_dir, hparams.batch_size, hparams.mom2_update_weight) == ("x", 5, 20.0)
    assert (hparams.alpha_z, hparams.num_layers, hparams.wohk) == (1.5, 2, True)
    with pytest.raises(HyperParameterError, match="num_layers: 9 is more than"):
        hparams_of("--num_layers", 9)


@pytest.mark.parametrize("option", ["mom2_update_weight", "alpha_z", "num_layers", "wohk"])
def test_an_option_that_the_method_lacks_is_refused(option: str) -> None:
    with pytest.raises(HyperParameterError, match=f"--{option}: GRACE has no hyperparameter '{option}'"):
        hparams_of(f"--{option}", 1, "--method", "GRACE")


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("gpt2-xl", "gpt2-xl"),
        ("EleutherAI/gpt-j-6B", "gpt-j-6B"),
        ("gpt-j-6b", "gpt-j-6B"),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("/models/Mistral-7B/", "mistral-7b"),
        ("smollm2-135m", "smollm2-135m"),
    ],
)
def test_a_model_name_selects_its_shipped_file(model: str, file: str) -> None:
    assert shipped_hparams("GRACE", model).stem == file


def test_a_model_path_is_kept_and_a_short_name_takes_the_files_name() -> None:
    def model_name(model: str) -> Any:
        return hparams_of("--model", model, "--method", "GRACE").model_name

    assert model_name("/models/gpt2-xl") == "/models/gpt2-xl"
    assert model_name("EleutherAI/gpt-j-6B") == "EleutherAI/gpt-j-6B"
    assert hparams_of("--method", "grace").alg_name == "GRACE"
    assert model_name("GPT2-XL") == hparams_of("--hparams", "GRACE/gpt2-xl").model_name


def test_a_model_without_a_shipped_file_is_refused() -> None:
    with pytest.raises(HyperParameterError, match=r"--model gpt3: no hyperparameters of GRACE ship for it \(.*gpt2-xl"):
        shipped_hparams("GRACE", "gpt3")


def test_method_selects_easyedits_methods_and_refuses_unusable_ones() -> None:
    memit = hparams_of("--mom2_update_weight", 5.0, "--bsz", 3, "--method", "MEMIT")
    assert type(memit).__module__.startswith("easyeditor")
    assert (memit.mom2_update_weight, memit.batch_size, memit.model_name) == (5.0, 3, "smollm2-135m")
    with pytest.raises(HyperParameterError, match="--num_layers: MEMIT has no hyperparameter"):
        hparams_of("--num_layers", 2, "--method", "MEMIT")
    with pytest.raises(LifelongError, match=r"--method GRAC: no editing method.*Did you mean 'GRACE'\?"):
        hparams_of("--method", "GRAC")
    with pytest.raises(LifelongError, match=r"--method IKE: .*only methods that rewrite weights"):
        hparams_of("--method", "IKE")
    with pytest.raises(HyperParameterError, match="--method MEMIT: GRACE/gpt2-xl is for 'GRACE'"):
        hparams_of("--method", "MEMIT", "--hparams", "GRACE/gpt2-xl")
