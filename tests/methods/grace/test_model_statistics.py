"""Statistics of a model for edits by subject: no edit computes them after the preparation, and they are the same."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model, load_edits, save_edits
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.subject import model_statistics
from easyedit_lifelong.methods.grace.subject.model_statistics import ModelStatistics, prepare_statistics
from easyedit_lifelong.methods.shared.model_values import values_of
from easyedit_lifelong.methods.shared.subject_keys import model_neighbourhood
from tests.support.corpus import write_corpus
from tests.support.subject_edits import REQUESTS, hparams
from tests.support.tiny_models import build_model, build_tokenizer

COMPUTED = (
    (model_neighbourhood, "Neighbourhood"),
    (model_statistics, "whitening_for"),
    (model_statistics, "relation_metric_for"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path, documents=30)


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each statistic when it is computed."""
    computed: list[str] = []

    def counting(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            computed.append(name)
            return function(*args, **kwargs)

        return call

    for module, name in COMPUTED:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return computed


def edit(model: Any, tokenizer: Any, settings: Any, *numbers: int) -> Any:
    return apply_grace_to_model(model, tokenizer, [REQUESTS[number] for number in numbers], settings)[1]


def codebook_of(model: Any) -> Any:
    (editor,) = GraceEditor.all_of(model).values()
    assert editor.codebook is not None
    return editor.codebook


def test_no_edit_computes_statistics_after_the_preparation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, settings = count_computed(monkeypatch), hparams("late-relations", folder=folder)
    model, tokenizer = build_model("llama"), build_tokenizer()
    prepare_statistics(model, tokenizer, settings)
    assert sorted(computed) == sorted(name for _, name in COMPUTED)
    assert set(model.__dict__) == set(build_model("llama").__dict__), "a model without edits has no trace of them"
    computed.clear()
    rollback = edit(model, tokenizer, settings, 0, 1)
    edit(model, tokenizer, settings, 2)
    save_edits(model, folder / "edits")
    assert len(codebook_of(model)) == 3
    (editor,) = GraceEditor.all_of(model).values()
    rollback()
    editor.remove_records(list(editor.records))
    assert not GraceEditor.all_of(model)
    edit(model, tokenizer, settings, 3)()
    load_edits(model, folder / "edits", tokenizer)
    edit(model, tokenizer, settings, 3)
    prepare_statistics(model, tokenizer, settings)
    assert computed == []


@pytest.mark.parametrize("mode", ["subject", "late-relations"])
def test_prepared_edits_equal_those_of_a_model_that_was_not_prepared(folder: Path, mode: str) -> None:
    settings, tokenizer, codebooks = hparams(mode, folder=folder), build_tokenizer(), []
    for prepared in (False, True):
        model = build_model("llama").train()
        if prepared:
            prepare_statistics(model, tokenizer, settings)
            assert model.training
        edit(model, tokenizer, settings, 0, 1, 2)
        codebooks.append(codebook_of(model))
    assert len(set(codebooks[0].radii.tolist())) > 1
    for name in ("keys", "radii", "values"):
        assert torch.equal(getattr(codebooks[0], name), getattr(codebooks[1], name)), name


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"false_fire_rate": 0.3}, ["Neighbourhood"]),
        ({"key_templates": ["{subject}"]}, ["Neighbourhood"]),
        ({"dist_fn": "euc"}, ["Neighbourhood"]),
        ({"whiten": False}, ["Neighbourhood"]),
        ({"mom2_n_samples": 20}, ["whitening_for", "Neighbourhood"]),
        ({"answer_layer": "model.layers[3].mlp"}, ["relation_metric_for"]),
        ({"inner_params": ["model.layers[0].mlp.down_proj"]}, ["whitening_for", "Neighbourhood"]),
        ({"n_iter": 3}, []),
    ],
)
def test_a_changed_setting_is_never_answered_from_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], expected: list[str]
) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    prepare_statistics(model, tokenizer, hparams("late-relations", folder=folder))
    computed = count_computed(monkeypatch)
    prepare_statistics(model, tokenizer, hparams("late-relations", folder=folder, **change))
    assert computed == expected


def test_other_weights_or_another_tokenizer_have_other_statistics(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = hparams("late-relations", folder=folder, whiten=False)  # stored moments of other weights are refused
    model, tokenizer = build_model("llama"), build_tokenizer()
    prepare_statistics(model, tokenizer, settings)
    computed = count_computed(monkeypatch)
    prepare_statistics(model, build_tokenizer(), settings)
    assert sorted(computed) == ["Neighbourhood", "relation_metric_for"]
    computed.clear()
    prepare_statistics(model, tokenizer, settings)
    computed.clear()
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    edit(model, tokenizer, settings, 0)
    assert sorted(computed) == ["Neighbourhood", "relation_metric_for"]


def test_loaded_edits_keep_their_whitening_and_get_the_neighbourhood_in_it(folder: Path) -> None:
    settings, tokenizer = hparams("subject", folder=folder), build_tokenizer()
    model = build_model("llama")
    edit(model, tokenizer, settings, 0)
    save_edits(model, folder / "edits")
    other = hparams("subject", folder=folder, mom2_n_samples=10)
    loaded = build_model("llama")
    prepare_statistics(loaded, tokenizer, other)
    load_edits(loaded, folder / "edits", tokenizer)
    edit(loaded, tokenizer, other, 1)
    edit(model, tokenizer, settings, 1)
    assert torch.equal(codebook_of(loaded).radii, codebook_of(model).radii)


def test_kept_statistics_do_not_keep_the_model(folder: Path) -> None:
    model = build_model("llama")
    prepare_statistics(model, build_tokenizer(), hparams("late-relations", folder=folder))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_one_value_of_a_kind_is_kept() -> None:
    model, calls = build_model("llama"), list[int]()

    def value(number: int) -> int:
        calls.append(number)
        return number

    for number in (1, 1, 2, 1):
        assert values_of(model).get("kind", number, lambda number=number: value(number)) == number
    assert calls == [1, 2, 1]
    assert values_of(build_model("llama")).get("kind", 1, lambda: 5) == 5, "each model has its own"


def test_a_model_whose_answers_change_with_padding_is_refused_before_texts_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_statistics, "padding_changes_answers", lambda model: True)
    computed = count_computed(monkeypatch)
    with pytest.raises(ModelError, match="padding changes the answers of LlamaForCausalLM"):
        prepare_statistics(build_model("llama"), build_tokenizer(), hparams("subject", folder=folder))
    assert computed == []


def test_edits_by_prompt_need_no_statistics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_computed(monkeypatch)
    settings = hparams("subject-plain", folder=folder)
    prepare_statistics(build_model("llama"), build_tokenizer(), settings)
    assert computed == []
    statistics = ModelStatistics(build_model("llama"), build_tokenizer(), settings)
    assert "_values" not in vars(statistics), "no pass over the weights"
