"""Hyperparameter files: what loads, EasyEdit's files among them, and how mistakes are reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file, shipped_hparams_folders
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from tests.support.thoroughness import examples

# hparams/GRACE/gpt2-xl.yaml of EasyEdit's main branch.
EASYEDIT = """\
alg_name: "GRACE"
model_name: "./hugging_cache/gpt2-xl"
device: 0

inner_params:
- transformer.h[35].mlp.c_fc.weight

edit_lr: 1.0
n_iter: 50
# n_iter: 100
eps: 1.0
dist_fn: euc # euc, mmd, cos
val_init: cold # cold, warm
val_train: sgd # sgd, pert
val_reg: None # early
reg: early_stop # early_stop
replacement: replace_last # replace_last, replace_all, replace_prompt
eps_expand: coverage # , moving_avg, decay
num_pert: 8 # only matters when using perturbed training
dropout: 0.0
"""
BASE: dict[str, Any] = {"alg_name": "GRACE", "model_name": "m", "inner_params": ["model.layers[2].mlp.down_proj"]}


def _write(folder: Path, values: Any, name: str = "grace.yaml") -> Path:
    path = folder / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def _error_of(path: Any) -> str:
    with pytest.raises(HyperParameterError) as caught:
        GraceHyperParams.from_hparams(path)
    message = str(caught.value)
    assert message.startswith(str(path)), "the message doesn't begin with the file"
    assert "\n" not in message
    return message[len(str(path)) :]


# ------------------------------------------------------------------ what loads


def test_an_easyedit_file_loads_unchanged(tmp_path: Path) -> None:
    hparams = GraceHyperParams.from_hparams(_write(tmp_path, EASYEDIT))
    assert hparams.model_name == "./hugging_cache/gpt2-xl"
    assert hparams.device == 0
    assert hparams.inner_params == ["transformer.h[35].mlp.c_fc.weight"]
    assert (hparams.edit_lr, hparams.n_iter, hparams.eps) == (1.0, 50, 1.0)
    assert (hparams.dist_fn, hparams.val_init, hparams.val_train) == ("euc", "cold", "sgd")
    assert hparams.val_reg is None
    assert (hparams.reg, hparams.replacement, hparams.eps_expand) == ("early_stop", "replace_last", "coverage")
    assert (hparams.num_pert, hparams.dropout) == (8, 0.0)


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("edit_lr: 5e-1", "edit_lr", 0.5),  # a string to YAML 1.1
        ("edit_lr: 1", "edit_lr", 1.0),
        ("n_iter: 1e2", "n_iter", 100),
        ("n_iter: 50.0", "n_iter", 50),
        ("val_reg:", "val_reg", None),
        ("val_reg: null", "val_reg", None),
        ("reg: none", "reg", None),
        ("reg: early", "reg", "early_stop"),
        ("val_train: pert", "val_train", "adv"),
        ("eps_expand: moving_avg", "eps_expand", "moving_average"),
        ("device: cpu", "device", "cpu"),
        ("device: cuda:1", "device", "cuda:1"),
        ("device:", "device", None),
        ("model_parallel: true", "model_parallel", True),
    ],
)
def test_a_value_is_read_in_every_accepted_spelling(tmp_path: Path, written: str, name: str, value: Any) -> None:
    text = yaml.safe_dump({k: v for k, v in BASE.items() if k != name}) + written + "\n"
    loaded = getattr(GraceHyperParams.from_hparams(_write(tmp_path, text)), name)
    assert loaded == value
    assert type(loaded) is type(value)


def test_a_layer_name_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    hparams = GraceHyperParams.from_hparams(_write(tmp_path, {**BASE, "inner_params": ["2"]}))
    assert hparams.inner_params == ["2"]


@pytest.mark.parametrize("name", ["7.5", "1e5", "3.2.1"])
def test_a_model_name_that_looks_like_a_number_stays_text(tmp_path: Path, name: str) -> None:
    hparams = GraceHyperParams.from_hparams(_write(tmp_path, {**BASE, "model_name": name}))
    assert hparams.model_name == name


def test_the_suffix_of_a_file_may_be_omitted(tmp_path: Path) -> None:
    _write(tmp_path, BASE, "my.model.yaml")
    assert GraceHyperParams.from_hparams(tmp_path / "my.model").model_name == "m"


def test_a_json_file_loads(tmp_path: Path) -> None:
    import json

    path = tmp_path / "grace.json"
    path.write_text(json.dumps(BASE))
    assert GraceHyperParams.from_hparams(path).model_name == "m"


def test_a_loaded_model_and_tokenizer_are_accepted_as_model_name() -> None:
    pair = (object(), object())
    assert GraceHyperParams(model_name=pair, inner_params=["x"]).model_name is pair


def test_written_hyperparameters_are_read_back_equal(tmp_path: Path) -> None:
    hparams = GraceHyperParams(model_name="m", inner_params=["a.b"], edit_lr=0.25, reg=None, device=1, seed=7)
    assert GraceHyperParams.from_hparams(_write(tmp_path, hparams.to_dict())) == hparams
    assert "source" not in hparams.to_dict()


SHIPPED = {
    file.relative_to(folder).with_suffix("").as_posix(): file
    for folder in shipped_hparams_folders()
    for file in sorted(folder.rglob("*.yaml"))
}
"""The shipped files by name, such as ``GRACE/gpt2-xl``."""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_loads_by_path_and_by_name(name: str) -> None:
    from easyedit_lifelong.runs.hyperparameter_files import load_hparams

    path = SHIPPED[name]
    assert find_hparams(name) == path
    assert read_hparams_file(path)["alg_name"] == name.rpartition("/")[0]
    try:
        hparams = load_hparams(path, easyedits=True)
    except HyperParameterError as error:
        if name.startswith("EasyEdit/") and "EasyEdit has no method" in str(error):
            pytest.skip("this version of EasyEdit has no such method")
        raise
    assert load_hparams(name, easyedits=True) == hparams


def test_a_local_file_takes_precedence_over_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "GRACE").mkdir()
    _write(tmp_path / "GRACE", BASE, "smollm2-135m.yaml")
    monkeypatch.chdir(tmp_path)
    assert GraceHyperParams.from_hparams("GRACE/smollm2-135m").model_name == "m"


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", ["nothing.yaml", "nothing", "."])
def test_a_missing_file_is_refused_with_the_shipped_folders(tmp_path: Path, name: str) -> None:
    message = _error_of(tmp_path / name)
    assert "no such hyperparameter file" in message
    assert ", GRACE, IKE-native, " in message, "the folders of shipped files aren't listed"
    assert len(message) < 1000, "more than a hundred files are listed"


def test_a_missing_file_of_a_method_is_refused_with_that_methods_names_only() -> None:
    message = _error_of(Path("GRACE/gpt5"))
    assert "Shipped in GRACE/: gemma3-270m" in message
    assert "CoachHook" not in message


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_path_without_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(HyperParameterError, match="is not the name of a hyperparameter file"):
        GraceHyperParams.from_hparams(name)


def test_an_impossible_date_is_invalid_yaml(tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("alg_name: GRACE\nmodel_name: 2024-13-45\n")
    with pytest.raises(HyperParameterError, match="not valid YAML: month must be in"):
        GraceHyperParams.from_hparams(tmp_path / "h.yaml")


@pytest.mark.parametrize("name", ["GRACE/smollm2-135", "GRACE/smolm2-135m.yaml", "grace/smollm2-135m"])
def test_a_mistyped_shipped_name_gets_a_suggestion(name: str) -> None:
    assert "Did you mean 'GRACE/smollm2-135m'?" in _error_of(name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [1", "not valid YAML"),
        ("\tx: 1", "not valid YAML"),
        ("{a: b: c}", "not valid YAML"),
        ("", "must hold hyperparameters as 'name: value' lines"),
        ("- 1", "must hold hyperparameters as 'name: value' lines"),
        ("GRACE", "must hold hyperparameters as 'name: value' lines"),
    ],
)
def test_a_file_without_hyperparameters_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    assert expected in _error_of(_write(tmp_path, content))


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "grace.yaml").write_bytes(b"model_name: caf\xe9\n")
    assert "not valid YAML" in _error_of(tmp_path / "grace.yaml")


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("n_itr", "n_iter"), ("edit_learning_rate", None), ("inner_param", "inner_params"), ("EPS", "eps")],
)
def test_an_unknown_key_is_refused_with_a_suggestion(tmp_path: Path, key: str, suggestion: str | None) -> None:
    message = _error_of(_write(tmp_path, {**BASE, key: 1}))
    assert f"unknown hyperparameter {key!r}" in message
    assert ".;" not in message
    assert ("Did you mean" in message) is (suggestion is not None)
    if suggestion:
        assert f"Did you mean {suggestion!r}?" in message


@pytest.mark.parametrize("key", ["source", "ALG_NAME", "CHOICES", 1, None, True])
def test_a_key_that_no_file_may_set_is_refused(tmp_path: Path, key: Any) -> None:
    assert f"unknown hyperparameter {key!r}" in _error_of(_write(tmp_path, {**BASE, key: "x"}))


def test_a_file_of_another_method_is_refused_without_a_list_of_its_keys(tmp_path: Path) -> None:
    message = _error_of(_write(tmp_path, {**BASE, "alg_name": "MEMIT", "layers": [1], "fact_token": "subject_last"}))
    assert message.endswith("alg_name: 'MEMIT' is another method; this class is for 'GRACE'")


@pytest.mark.parametrize("name", ["model_name", "inner_params"])
def test_a_missing_key_is_named(tmp_path: Path, name: str) -> None:
    assert f"{name}: missing" in _error_of(_write(tmp_path, {k: v for k, v in BASE.items() if k != name}))


def test_all_bad_values_are_reported_together(tmp_path: Path) -> None:
    message = _error_of(_write(tmp_path, {**BASE, "edit_lr": "fast", "n_iter": 0, "dist_fn": "euk", "eps": -1}))
    assert "edit_lr: 'fast' is not a number" in message
    assert "n_iter: 0 is less than 1" in message
    assert "dist_fn: 'euk' isn't one of euc, cos. Did you mean 'euc'?" in message
    assert "eps: -1.0 is less than 0" in message


def test_unknown_and_missing_keys_are_reported_together(tmp_path: Path) -> None:
    message = _error_of(_write(tmp_path, {"alg_name": "GRACE", "model_nam": "m"}))
    assert "unknown hyperparameter 'model_nam'. Did you mean 'model_name'?" in message
    assert "model_name: missing" in message
    assert "inner_params: missing" in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_iter", "many", "n_iter: 'many' is not a whole number"),
        ("n_iter", 1.5, "n_iter: 1.5 is not a whole number"),
        ("n_iter", True, "n_iter: True is not a whole number"),
        ("n_iter", None, "n_iter: None is not a whole number"),
        ("n_iter", [5], "n_iter: [5] is not a whole number"),
        ("n_iter", float("inf"), "n_iter: inf is not a whole number"),
        ("edit_lr", False, "edit_lr: False is not a number"),
        ("edit_lr", 0, "edit_lr: 0.0 must be greater than 0"),
        ("edit_lr", float("nan"), "edit_lr: nan"),
        ("edit_lr", float("inf"), "edit_lr: inf"),
        ("eps", float("nan"), "eps: nan"),
        ("dropout", 1.0, "dropout: 1.0 must be less than 1"),
        ("dropout", float("nan"), "dropout: nan"),
        ("inner_params", "model.layers[2]", "inner_params: 'model.layers[2]' is not a list"),
        ("inner_params", [2], "inner_params: [2] is not a list"),
        ("inner_params", [], "inner_params: GRACE edits one layer, 0 are named"),
        ("inner_params", ["a", "b"], "inner_params: GRACE edits one layer, 2 are named"),
        ("val_reg", "early", "val_reg: 'early' isn't one of"),
        ("replacement", "replace_first", "Did you mean 'replace_last'?"),
        ("model_parallel", "yes please", "model_parallel: 'yes please' is not true or false"),
        ("model_parallel", 1, "model_parallel: 1 is not true or false"),
        ("device", 1.5, "device: 1.5 is not"),
        ("device", [0], "device: [0] is not"),
        ("dtype", 32, "dtype: 32 is not text or nothing"),
        ("seed", "x", "seed: 'x' is not a whole number"),
        ("alg_name", "ROME", "alg_name: 'ROME' is another method; this class is for 'GRACE'"),
        ("model_name", None, "model_name"),
        ("model_name", "", "model_name"),
        ("model_name", 7, "model_name"),
        ("model_name", ["a", "b"], "model_name"),
    ],
)
def test_a_bad_value_is_refused_with_the_reason(tmp_path: Path, name: str, value: Any, expected: str) -> None:
    assert expected in _error_of(_write(tmp_path, {**BASE, name: value}))


def test_a_bad_value_in_code_names_the_class() -> None:
    with pytest.raises(HyperParameterError, match=r"^GraceHyperParams: n_iter: 0 is less than 1$"):
        GraceHyperParams(model_name="m", inner_params=["x"], n_iter=0)


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
_ANYTHING = _VALUES | st.lists(_VALUES, max_size=2) | st.dictionaries(st.text(max_size=3), _VALUES, max_size=2)
_NAMES = [name for name in GraceHyperParams(model_name="m", inner_params=["x"]).to_dict() if name != "model_name"]


@examples(60)
@given(st.dictionaries(st.sampled_from(_NAMES), _ANYTHING, max_size=3))
def test_any_values_load_with_their_types_or_are_refused(values: dict[str, Any]) -> None:
    """No value raises another exception, and a value that loads has the annotated type."""
    try:
        hparams = GraceHyperParams(**{"model_name": "m", "inner_params": ["x"], **values})
    except HyperParameterError:
        return
    assert isinstance(hparams.n_iter, int)
    assert isinstance(hparams.edit_lr, float)
    assert hparams.edit_lr > 0
    assert hparams.dist_fn in ("euc", "cos")
    assert isinstance(hparams.dtype, str | None)


@dataclass(kw_only=True)
class AnnotatedHyperParams(PluginHyperParams):
    """Hyperparameters of a plugin, defined by annotations only."""

    ALG_NAME: ClassVar[str] = "ANNOTATED"
    rate: float
    layers: list[int]
    note: str | None = None


def test_a_plugins_hyperparameters_are_checked_by_their_annotations(tmp_path: Path) -> None:
    hparams = AnnotatedHyperParams.from_hparams(_write(tmp_path, {"model_name": "m", "rate": 1, "layers": [1, 2.0]}))
    assert (hparams.alg_name, hparams.rate, hparams.layers) == ("ANNOTATED", 1.0, [1, 2])
    with pytest.raises(HyperParameterError, match="rate: missing"):
        AnnotatedHyperParams.from_hparams(_write(tmp_path, {"model_name": "m", "layers": []}))
    with pytest.raises(HyperParameterError, match=r"layers: \['x'\] is not a list of "):
        AnnotatedHyperParams(model_name="m", rate=1.0, layers=["x"])  # type: ignore[list-item]


@pytest.mark.parametrize("device", ["1e3", "0", "1.0", "cuda:1", 1, None])
def test_text_stays_text_in_a_field_for_a_number_or_a_text(tmp_path: Path, device: int | str | None) -> None:
    hparams = AnnotatedHyperParams.from_hparams(
        _write(tmp_path, {"model_name": "m", "rate": 1, "layers": [], "device": device})
    )
    assert (type(hparams.device), hparams.device) == (type(device), device)


def test_a_number_without_a_dot_is_a_number_where_a_float_is_allowed(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text."""
    path = tmp_path / "theirs.yaml"
    path.write_text("model_name: m\nrate: 1e-3\nlayers: [1e1]\nseed: 1e3\n")
    hparams = AnnotatedHyperParams.from_hparams(path)
    assert (hparams.rate, hparams.layers, hparams.seed) == (0.001, [10], 1000)
    grace = GraceHyperParams(model_name="m", inner_params=["x"], eps="1e-3")
    assert grace.eps == 0.001
