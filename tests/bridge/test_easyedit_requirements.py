"""What EasyEdit's methods require of requests, models and hyperparameter files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import bridge, in_chat_form
from easyedit_lifelong.bridge import easyedit_method, read_easyedit_hparams, requirements
from easyedit_lifelong.bridge import easyedit_methods as methods
from easyedit_lifelong.bridge.weights import edited_weights
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import DataError, HyperParameterError, ModelError, PluginError
from easyedit_lifelong.hparams_files import find_hparams
from tests.support.chat_tokenizer import chat_tokenizer
from tests.support.easyedit_memit import NAMES, REQUESTS, VALUES, memit_hparams
from tests.support.tiny_models import smollm2_without_weights
from tests.support.toy_method import make_pair


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"subject": None}, "field 'subject': is missing; MEMIT edits at the subject"),
        ({"subject": "Spain"}, "field 'subject': 'Spain' isn't in the prompt 'The capital of France is'"),
        ({"prompt": "The {capital} of France is"}, "field 'prompt': has a curly bracket"),
        ({"joiner": ""}, "field 'joiner': EasyEdit's MEMIT puts a space between prompt and target"),
    ],
)
def test_a_request_that_fits_no_template_is_refused_with_its_field(
    memit: Any, changes: dict[str, Any], expected: str
) -> None:
    model, tok = make_pair("gpt2")
    requests = as_requests([REQUESTS[1], {**REQUESTS[0], **changes}])
    with pytest.raises(DataError) as caught:
        memit.check_requests(model, tok, memit_hparams(memit, "gpt2"), requests)
    assert "case fr" in str(caught.value)
    assert expected in str(caught.value)


def test_prompts_in_chat_form_are_refused() -> None:
    (request,) = in_chat_form(as_requests(REQUESTS[:1]), chat_tokenizer())
    with pytest.raises(DataError, match=r"case fr.*MEMIT does not edit prompts in chat form. Leave --chat out"):
        requirements.check_prompt_form("MEMIT", [request])


def test_the_last_of_two_occurrences_of_a_subject_is_edited(memit: Any, given_moments: None) -> None:
    """EasyEdit's templates have one placeholder, which takes the last occurrence."""
    request = EditRequest("p", "Paris and Paris are", "Rome", subject="Paris")
    assert methods._as_easyedit_request(request, memit_hparams(memit, "gpt2"))["prompt"] == "Paris and {} are"
    memit.apply(*make_pair("gpt2"), [request], memit_hparams(memit, "gpt2", v_num_grad_steps=2))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lm_head_module": "lm_head"}, "Its head is tied; write 'transformer.wte'"),
        ({"layers": [0, 7]}, "'transformer.h.7.mlp.c_proj'"),
        ({"v_loss_layer": 9}, "'transformer.h.9'"),
        ({"ln_f_module": "transformer.norm"}, "'transformer.norm'"),
    ],
)
def test_module_names_that_do_not_exist_are_refused(
    memit: Any, given_moments: None, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ModelError) as caught:
        memit.check(*make_pair("gpt2"), memit_hparams(memit, "gpt2", **changes))
    assert expected in str(caught.value)


def test_unknown_methods_and_those_that_rewrite_no_weights_are_refused(easyeditor: Any) -> None:
    with pytest.raises(PluginError, match=r"no method 'MEMMIT'. Did you mean 'MEMIT'\?"):
        easyedit_method("MEMMIT")
    with pytest.raises(PluginError, match="only methods that rewrite weights can"):
        easyedit_method("IKE")
    assert easyedit_method("MEMIT").batchable
    assert not easyedit_method("ROME").batchable


def test_other_hyperparameters_belong_to_no_easyedit_method() -> None:
    assert bridge.easyedit_method_for(object()) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"v_lrr": 1}, "unknown hyperparameter 'v_lrr'. Did you mean 'v_lr'?"),
        ({"layers": None, "drop": "layers"}, "layers: missing"),
    ],
)
def test_hyperparameter_files_are_read_strictly(
    easyeditor: Any, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    values = {**VALUES, **NAMES["gpt2"], "v_lr": "5e-1"}
    path = tmp_path / "memit.yaml"
    path.write_text(yaml.safe_dump(values))
    assert read_easyedit_hparams(path, "MEMIT").v_lr == 0.5
    values |= {name: value for name, value in changes.items() if name != "drop"}
    values.pop(changes.get("drop", ""), None)
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(HyperParameterError) as caught:
        read_easyedit_hparams(path, "MEMIT")
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(("value", "kept"), [("false", False), ("5e-4", 5e-4)])
def test_a_number_may_be_false_as_in_easyedits_files(
    easyeditor: Any, tmp_path: Path, value: str, kept: float | bool
) -> None:
    path = tmp_path / "ft.yaml"
    shipped = find_hparams("FT/smollm2-135m").read_text()
    path.write_text(re.sub("norm_constraint: false", f"norm_constraint: {value}", shipped))
    found = read_easyedit_hparams(path, "FT").norm_constraint
    assert (found, type(found)) == (kept, type(kept))


def test_easyedit_reads_the_same_values_from_the_shipped_file(easyeditor: Any) -> None:
    path = Path(__file__).parents[2] / "hparams" / "MEMIT" / "smollm2-135m.yaml"
    read_by_easyedit, read_by_us = (
        easyeditor.MEMITHyperParams.from_hparams(str(path)),
        read_easyedit_hparams(path, "MEMIT"),
    )
    assert dataclasses.asdict(read_by_easyedit) == dataclasses.asdict(read_by_us)
    assert read_by_us.lm_head_module == "model.embed_tokens"


def test_all_values_of_the_wrong_type_are_named(easyeditor: Any, tmp_path: Path) -> None:
    text = find_hparams("MEMIT/smollm2-135m").read_text(encoding="utf-8")
    file = tmp_path / "memit.yaml"
    file.write_text(text.replace("layers: [3, 4, 5, 6, 7]", "layers: 5").replace("v_lr: 5e-1", "v_lr: quick"))
    with pytest.raises(HyperParameterError, match=r"layers: 5 is not a list of whole numbers; v_lr: 'quick' is not"):
        bridge.read_easyedit_hparams(file, "MEMIT")


@pytest.mark.parametrize("name", ["MEMIT", "FT"])
def test_shipped_files_of_easyedits_methods_fit_their_model(name: str, request: pytest.FixtureRequest) -> None:
    if name == "MEMIT":  # FT needs no second moments
        request.getfixturevalue("given_moments")
    hparams = read_easyedit_hparams(find_hparams(f"{name}/smollm2-135m"), name)
    model = smollm2_without_weights()
    requirements.check_names(model, None, hparams)
    assert list(edited_weights(model, hparams)) == [f"model.layers.{n}.mlp.down_proj.weight" for n in hparams.layers]
