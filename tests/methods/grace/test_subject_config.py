"""Hyperparameters of edits found by subject: wrong values, and layers and models that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.errors import HyperParameterError, ModelError
from easyedit_lifelong.hparams_files import shipped_hparams_folders
from tests.support.architectures import ARCHITECTURES
from tests.support.subjects import FACTS, first_layer, hparams_for
from tests.support.tiny_models import build_model, build_tokenizer

BASE: dict[str, Any] = {"model_name": "m", "inner_params": ["layer"]}
SUBJECT: dict[str, Any] = {**BASE, "query_token": "subject_last"}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(HyperParameterError) as caught:
        GraceHyperParams.from_values(values, "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    return message.removeprefix("my.yaml: ")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"replacement": "replace_all"}, "replacement: replace_all can't be combined with query_token: subject_last"),
        ({"replacement": "replace_prompt"}, "replacement: replace_prompt can't be combined"),
        ({"val_train": "adv"}, "val_train: adv can't be combined with query_token: subject_last"),
        ({"val_train": "pert"}, "val_train: adv can't be combined"),
        ({"eps_expand": "moving_avg"}, "eps_expand: moving_average can't be combined"),
        ({"gate_eps": 0.5}, "gate_eps: needs answer_layer"),
        ({"gate_eps": 0, "answer_layer": "l"}, "gate_eps: 0.0 must be greater than 0"),
        ({"eps": "automatic"}, "eps: 'automatic' is neither a number nor auto"),
        ({"eps": -1}, "eps: -1.0 is less than 0"),
        ({"eps": True}, "eps: True is not a number or text"),
        ({"eps": float("nan")}, "eps: nan is not a finite number"),
        ({"false_fire_rate": 0}, "false_fire_rate: 0.0 must be greater than 0"),
        ({"false_fire_rate": 1}, "false_fire_rate: 1.0 must be less than 1"),
        ({"kl_factor": -0.1}, "kl_factor: -0.1 is less than 0"),
        ({"mom2_n_tokens": 0}, "mom2_n_tokens: 0 is less than 1"),
        ({"mom2_dtype": "float16"}, "mom2_dtype: 'float16' isn't one of float32, float64"),
        ({"key_templates": "{prompt}"}, "key_templates: '{prompt}' is not a list of text"),
        ({"key_templates": ["So"]}, "key_templates: 'So' must hold either {subject} or {prompt}, once"),
        ({"key_templates": ["{subject}: {prompt}"]}, "key_templates: '{subject}: {prompt}' must hold either"),
        ({"context_templates": ["{subject} {subject}"]}, "context_templates: '{subject} {subject}' must hold either"),
        ({"context_templates": ["{}"]}, "context_templates: '{}' must hold"),
        ({"answer_layer": ["a"]}, "answer_layer: ['a'] is not text or nothing"),
        ({"whiten": "yes"}, "whiten: 'yes' is not true or false"),
        ({"key_template": ["{prompt}"]}, "unknown hyperparameter 'key_template'. Did you mean 'key_templates'?"),
        ({"answer_layers": "l"}, "Did you mean 'answer_layer'?"),
        ({"query_token": "subject-last"}, "Did you mean 'subject_last'?"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(options: dict[str, Any], problem: str) -> None:
    assert problem in refusal({**SUBJECT, **options})


@pytest.mark.parametrize(
    "option",
    [
        {"whiten": True},
        {"key_templates": ["{subject}"]},
        {"context_templates": ["{subject}"]},
        {"kl_factor": 0.1},
        {"answer_layer": "l"},
        {"gate_eps": 0.1},
        {"eps": "auto"},
    ],
)
@pytest.mark.parametrize("query_token", ["prompt_last", "first"])
def test_options_for_subjects_are_refused_with_other_query_tokens(option: dict[str, Any], query_token: str) -> None:
    (name,) = option
    assert f"{name}: " in refusal({**BASE, **option, "query_token": query_token}).replace("eps: auto: ", "eps: ")
    assert "needs query_token: subject_last" in refusal({**BASE, **option, "query_token": query_token})
    if name != "gate_eps":
        GraceHyperParams.from_values({**SUBJECT, **option}, "my.yaml")


def test_one_error_lists_all_wrong_values() -> None:
    message = refusal(
        {**SUBJECT, "replacement": "replace_all", "val_train": "adv", "gate_eps": 1, "key_templates": [""]}
    )
    assert [part.partition(":")[0] for part in message.split("; ")] == [
        "replacement",
        "val_train",
        "gate_eps",
        "key_templates",
    ]


@pytest.mark.parametrize(("written", "eps"), [("1", 1.0), ("1e-3", 0.001), ("'0.25'", 0.25), ("auto", "auto")])
def test_eps_is_read_from_any_yaml_form_of_a_number(written: str, eps: Any) -> None:
    assert GraceHyperParams.from_values({**SUBJECT, "eps": yaml.safe_load(written)}, "f").eps == eps


def test_the_shipped_file_for_edits_by_subject_loads() -> None:
    path = next(folder / "GRACE" / "smollm2-135m-subject.yaml" for folder in shipped_hparams_folders())
    hparams = GraceHyperParams.from_hparams(path)
    assert hparams.by_subject
    assert hparams.vectors_per_key == 1 + len(hparams.key_templates)


# ------------------------------------------------------------------ the model


def refusal_of_model(model: Any, tokenizer: Any, hparams: GraceHyperParams) -> str:
    names = set(model.__dict__)
    with pytest.raises(ModelError) as caught:
        apply_grace_to_model(model, tokenizer, FACTS, hparams)
    assert set(model.__dict__) == names
    assert not any(module._forward_hooks for module in model.modules())
    return str(caught.value)


@pytest.mark.parametrize("block", [0, 1])
def test_an_answer_layer_below_the_key_layer_is_refused(block: int) -> None:
    hparams = hparams_for("llama", "late", deep=True, answer_layer=f"model.layers[{block}].mlp.down_proj")
    message = refusal_of_model(build_model("llama"), build_tokenizer(), hparams)
    assert f"answer_layer: model.layers.{block}.mlp.down_proj is in block {block}" in message
    assert "subjects are found in block 1" in message


@pytest.mark.parametrize("outside", ["model.norm", "lm_head", "model"])
def test_an_answer_layer_outside_the_blocks_is_refused(outside: str) -> None:
    message = refusal_of_model(
        build_model("llama"), build_tokenizer(), hparams_for("llama", "late", answer_layer=outside)
    )
    assert f"answer_layer: {outside} is in none of the model's blocks" in message


def test_the_key_layer_is_refused_as_answer_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (True, False):
        if not known:
            monkeypatch.setattr("easyedit_lifelong.methods.grace.check.anatomy_of", lambda _: None)
        hparams = hparams_for("llama", "late", answer_layer=first_layer("llama"))
        message = refusal_of_model(build_model("llama"), build_tokenizer(), hparams)
        assert "answer_layer: model.layers.0.self_attn.v_proj is the layer at which subjects are found" in message


def test_a_layer_that_does_not_exist_is_refused_with_its_option() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    message = refusal_of_model(model, tokenizer, hparams_for("llama", "late", answer_layer="model.layers[9].mlp"))
    assert "answer_layer: " in message
    assert "0 to 3" in message
    hparams = hparams_for("llama", "late")
    hparams.inner_params, hparams.source = ["model.layer[0].mlp"], "my.yaml"
    assert refusal_of_model(model, tokenizer, hparams).startswith("my.yaml, inner_params: ")


@pytest.mark.parametrize("kind", ["t5-encoder", "t5-decoder", "bert-last"])
def test_models_other_than_causal_language_models_are_refused(kind: str) -> None:
    model, tokenizer = ARCHITECTURES[kind].build()
    hparams = ARCHITECTURES[kind].hparams(query_token="subject_last")
    for layer in (hparams.inner_params, ["model.layers[0].mlp.down_proj"]):  # that of a causal model is no cause
        hparams.inner_params = layer
        message = refusal_of_model(model, tokenizer, hparams)
        assert f"subject_last is for causal language models; {type(model).__name__} is a " in message
        example = "GRACE/scotus-bert" if kind == "bert-last" else "GRACE/t5-small"
        assert f"Set prompt_last, name one of its layers in inner_params, as {example} does" in message


def test_a_layer_without_a_vector_for_every_token_is_refused(mode: str) -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama", mode)
    names = set(model.__dict__)
    hparams.inner_params = ["model.embed_tokens"]
    with pytest.raises(ModelError, match=r"inner_params: model\.embed_tokens reads token ids, so its input can't be"):
        apply_grace_to_model(model, tokenizer, FACTS, hparams)
    assert set(model.__dict__) == names
