"""The methods of a comparison: entries, labels, and the hyperparameters that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.runs.compared_methods import ComparedMethod, MethodComparison, experiments_by_label
from easyedit_lifelong.runs.experiment import Data, Experiment
from easyedit_lifelong.runs.experiment_files import is_comparison, read_comparison, read_experiment

VALID: dict[str, Any] = {"loop": "consecutive", "data": {"path": "f.json"}, "schedule": {"at": [1, 10]}}


def hparams_of(*entries: Any, **settings: Any) -> dict[str, Any]:
    """Return the hyperparameters of a comparison by label."""
    methods = [ComparedMethod.from_text(entry) if isinstance(entry, str) else entry for entry in entries]
    experiment = Experiment("consecutive", None, Data("facts.json"), **settings)
    experiments = experiments_by_label(MethodComparison(experiment, methods))
    return {label: found.hparams for label, found in experiments.items()}


def test_an_entry_is_a_method_or_a_file_with_an_optional_label() -> None:
    assert ComparedMethod.from_text("GRACE") == ComparedMethod("GRACE")
    assert ComparedMethod.from_text("a = b/c.yaml") == ComparedMethod("b/c.yaml", "a")


def test_a_method_stands_for_its_shipped_file_of_the_model() -> None:
    found = hparams_of("grace", "COACHHOOK", "subject=GRACE/smollm2-135m-subject")
    assert [(label, hparams.alg_name) for label, hparams in found.items()] == [
        ("GRACE", "GRACE"),
        ("CoachHook", "CoachHook"),
        ("subject", "GRACE"),
    ]
    assert {hparams.model_name for hparams in found.values()} == {"smollm2-135m"}
    assert found["subject"].query_token == "subject_last"


def test_a_short_model_name_selects_shipped_files_and_replaces_the_model_of_others() -> None:
    found = hparams_of(
        "AlphaEdit", "mine=GRACE/smollm2-135m", overrides={"model_name": "gpt-j-6b", "device": "cpu", "seed": 3}
    )
    assert {hparams.model_name for hparams in found.values()} == {"EleutherAI/gpt-j-6B"}
    assert {(hparams.device, hparams.seed) for hparams in found.values()} == {("cpu", 3)}


def test_easyedits_own_methods_can_be_compared() -> None:
    found = hparams_of("MEMIT", "FT", "GRACE", overrides={"device": "cpu"})
    assert type(found["MEMIT"]).__module__.startswith("easyeditor")
    assert list(found) == ["MEMIT", "FT", "GRACE"]


def test_a_method_without_a_shipped_file_is_refused_with_advice() -> None:
    with pytest.raises(HyperParameterError, match=r"--model gpt3: .*Write a file and name it in --methods: GRACE=FILE"):
        hparams_of("GRACE", overrides={"model_name": "gpt3"})


def test_labels_that_differ_only_in_case_are_refused() -> None:
    with pytest.raises(HyperParameterError, match="two methods are called"):
        hparams_of("GRACE", "grace=GRACE/smollm2-135m-subject")


def test_methods_of_different_data_types_are_refused(tmp_path: Path) -> None:
    values = {"alg_name": "GRACE", "model_name": "smollm2-135m", "inner_params": ["x"], "dtype": "bfloat16"}
    with pytest.raises(HyperParameterError, match=r"different values of dtype \(GRACE float32, half bfloat16\)"):
        hparams_of("GRACE", ComparedMethod(values, "half"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hparams": "GRACE/smollm2-135m"}, "hparams: a comparison can't have it"),
        ({"loop": "lifelong"}, "loop: a comparison uses the consecutive loop"),
        ({"schedule": {"at": [1], "every": 2}}, "schedule: a comparison needs 'at'"),
        ({"schedule": None}, "schedule: a comparison needs 'at'"),
        ({"methods": [5]}, "methods: 5 is no method name"),
        ({"methods": "GRACE"}, "methods: 'GRACE' is not"),
        ({"methods": {"a": None}}, "methods: None is no method name"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**VALID, "methods": ["GRACE"], **changes}))
    assert is_comparison(file)
    with pytest.raises(HyperParameterError) as caught:
        read_comparison(file)
    assert str(caught.value).startswith(f"{file}: ") and message in str(caught.value)


def test_a_file_without_a_method_is_refused_when_it_is_planned(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**VALID, "methods": []}))
    with pytest.raises(HyperParameterError, match=r"mine\.yaml, methods: names no method"):
        experiments_by_label(read_comparison(file))


def test_methods_in_a_mapping_are_named_by_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    methods = {"a": "GRACE", "b": "GRACE/smollm2-135m-subject"}
    file.write_text(yaml.safe_dump({**VALID, "methods": methods}))
    (tmp_path / "GRACE").mkdir()  # a folder beside the file is no hyperparameter file
    assert list(experiments_by_label(read_comparison(file))) == ["a", "b"]
    with pytest.raises(HyperParameterError, match="methods: a comparison has several runs; hparams: missing"):
        read_experiment(file)


def test_easyedits_own_method_is_named_with_its_prefix(tmp_path: Path) -> None:
    pytest.importorskip("easyeditor")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**VALID, "methods": ["MEMIT-native", "EasyEdit/MEMIT"]}))
    experiments = experiments_by_label(read_comparison(file))
    assert list(experiments) == ["MEMIT-native", "EasyEdit-MEMIT"]
    assert type(experiments["EasyEdit-MEMIT"].hparams).__module__.startswith("easyeditor")
