"""The methods of EasyEdit's main branch in this package's loops, on tiny models."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from easyedit_lifelong import bridge, run_consecutive
from easyedit_lifelong.bridge import easyedit_method, requirements
from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.bridge.weights import edited_weights
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, ModelError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hparams_files import find_hparams
from tests.support.easyedit_main import BATCHED, WEIGHT_METHODS, batches_of, main_hparams, tensors_of, values_of
from tests.support.easyedit_memit import REQUESTS
from tests.support.tiny_models import smollm2_without_weights, state_of
from tests.support.toy_method import make_pair

pytestmark = pytest.mark.usefixtures("main", "given_moments")

KINDS = ("gpt2", "llama")
ALL = [*WEIGHT_METHODS, "DEFER", "WISE"]
PAIRS = [
    # AlphaEdit and PMET depend on the layout of the weights; the other methods have fewer cases by default.
    pytest.param(name, kind, marks=[pytest.mark.full] if kind == "gpt2" and name not in {"AlphaEdit", "PMET"} else [])
    for name in ALL
    for kind in KINDS
    if (name, kind) != ("WISE", "gpt2")
]


def hparams_of(name: str, kind: str, folder: Path, **changes: Any) -> Any:
    """Return a method's hyperparameters; SimIE's base method gets a file in the folder."""
    if name == "SimIE":
        changes["base_file"] = str(folder / "memit.yaml")
        (folder / "memit.yaml").write_text(yaml.safe_dump(values_of("MEMIT", kind)))
    return main_hparams(name, kind, **changes)


def edited_model(name: str, kind: str, folder: Path) -> tuple[Any, list[Any]]:
    model, tok = make_pair(kind)
    method, hparams = easyedit_method(name), hparams_of(name, kind, folder)
    return model, [method.apply(model, tok, batch, hparams)[1] for batch in batches_of(name)]


def assert_equal_tensors(model: Any, expected: dict[str, Any]) -> None:
    state = state_of(model)
    assert list(state) == list(expected)
    assert [name for name, tensor in state.items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_edits_equal_those_of_a_direct_call_in_a_new_process(name: str, kind: str, tmp_path: Path) -> None:
    """Two batches with EasyEdit's own function, in a process that has made no other edits."""
    file = tmp_path / "direct.safetensors"
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.easyedit_main", name, kind, str(file)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    )
    assert result.returncode == 0, result.stderr
    before = tensors_of(make_pair(kind)[0])
    model, _ = edited_model(name, kind, tmp_path)
    edited = tensors_of(model)
    assert edited.keys() != before.keys() or any(not torch.equal(edited[key], before[key]) for key in before)
    for key, tensor in load_file(file).items():
        torch.testing.assert_close(edited[key], tensor, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_rollback_is_bitwise_and_a_second_run_in_the_process_is_equal(name: str, kind: str, tmp_path: Path) -> None:
    """EasyEdit keeps state in globals, so its own second run continues the first (EasyEdit's issue 613)."""
    model, rollbacks = edited_model(name, kind, tmp_path)
    first = state_of(model)
    for rollback in reversed(rollbacks):
        rollback()
    assert_equal_tensors(model, state_of(make_pair(kind)[0]))
    assert not model_state_of(model).tensors and not model_state_of(model).weights
    tok, method, hparams = make_pair(kind)[1], easyedit_method(name), hparams_of(name, kind, tmp_path)
    for batch in batches_of(name):
        method.apply(model, tok, batch, hparams)
    assert_equal_tensors(model, first)
    assert_equal_tensors(edited_model(name, kind, tmp_path)[0], first)


@pytest.mark.parametrize("name", ["MEMIT", "WISE"])
def test_an_earlier_rollback_includes_the_later_ones(name: str, tmp_path: Path) -> None:
    """A later edit's rollback restores the model with the earlier edits, so it must do nothing once these are gone."""
    model, rollbacks = edited_model(name, "llama", tmp_path)
    assert len(rollbacks) > 1
    for rollback in rollbacks:
        rollback()
        assert_equal_tensors(model, state_of(make_pair("llama")[0]))
    assert not model_state_of(model).weights


@pytest.mark.parametrize("name", ALL)
def test_one_rollback_restores_the_batch_before(name: str, tmp_path: Path) -> None:
    """The next edit is then what it would have been without the batch that was rolled back."""
    method, hparams = easyedit_method(name), hparams_of(name, "llama", tmp_path)
    states = []
    for rolled_back in (REQUESTS[2:], []):
        model, tok = make_pair("llama")
        method.apply(model, tok, REQUESTS[:1], hparams)
        if rolled_back:
            method.apply(model, tok, rolled_back, hparams)[1]()
        method.apply(model, tok, REQUESTS[1:2], hparams)
        states.append(state_of(model))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


@pytest.mark.parametrize("name", ["AlphaEdit", "SimIE"])
def test_a_copy_of_an_edited_model_has_its_state(name: str, tmp_path: Path) -> None:
    method, hparams = easyedit_method(name), hparams_of(name, "llama", tmp_path)
    model, tok = make_pair("llama")
    method.apply(model, tok, REQUESTS[:1], hparams)
    before = state_of(model)
    copied, _ = method.apply(model, tok, REQUESTS[1:2], hparams, copy=True)
    assert_equal_tensors(model, before)
    method.apply(model, tok, REQUESTS[1:2], hparams)
    assert_equal_tensors(copied, state_of(model))


@pytest.mark.parametrize("name", [*BATCHED, "ROME"])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    hparams = hparams_of(name, "gpt2", tmp_path)

    class InterruptAfterTwoEdits:
        def edited(self, done: int, scores: Any) -> None:
            if done == 2:
                raise KeyboardInterrupt

    def run(**options: Any) -> Any:
        return run_consecutive(*make_pair("gpt2"), REQUESTS, hparams, batch_size=1, retention=[], **options)

    uninterrupted = run()
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", progress=InterruptAfterTwoEdits())
    resumed = run(out=tmp_path / "run", resume=True)
    assert resumed.metrics == uninterrupted.metrics
    assert_equal_tensors(resumed.edited_model, state_of(uninterrupted.edited_model))


@pytest.mark.parametrize("name", ["DEFER", "WISE"])
def test_answers_do_not_depend_on_the_batch_or_the_padding(name: str, tmp_path: Path) -> None:
    model, _ = edited_model(name, "llama", tmp_path)
    tok = make_pair("llama")[1]
    questions = [(request["prompt"], request["target_new"]) for request in REQUESTS]
    alone = [Scorer(tok).forced(model, [question])[0].nll for question in questions]
    assert [answer.nll for answer in Scorer(tok).forced(model, questions)] == pytest.approx(alone, rel=1e-5)
    texts = Scorer(tok).generate(model, [prompt for prompt, _ in questions], 3)
    assert texts == [Scorer(tok).generate(model, [prompt], 3)[0] for prompt, _ in questions]


@pytest.mark.parametrize("name", ["DEFER", "WISE"])
def test_a_single_round_run_restores_the_model(name: str, tmp_path: Path) -> None:
    model, tok = make_pair("llama")
    state = state_of(model)
    hparams = hparams_of(name, "llama", tmp_path)
    result = run_consecutive(model, tok, REQUESTS, hparams, batch_size=1, consecutive=False, retention=[])
    assert [entry["status"] for entry in result.journal] == ["edited"] * 3
    assert_equal_tensors(model, state)
    edited, _ = edited_model(name, "llama", tmp_path)
    with pytest.raises(EditError, match="carries edits already"):
        run_consecutive(edited, tok, REQUESTS, hparams, batch_size=1, retention=[])


@pytest.mark.parametrize("name", ["ROME", "R-ROME", "DEFER", "WISE"])
def test_methods_for_one_request_refuse_a_batch(name: str, tmp_path: Path) -> None:
    model, tok = make_pair("llama")
    method, hparams = easyedit_method(name), hparams_of(name, "llama", tmp_path)
    with pytest.raises(EditError, match=f"EasyEdit's own {name} edits one request at a time"):
        method.apply(model, tok, REQUESTS[:2], hparams)
    with pytest.raises(HyperParameterError, match="edits one request at a time"):
        run_consecutive(model, tok, REQUESTS, hparams, batch_size=2)


@pytest.mark.parametrize("name", ["MEMIT", "WISE"])
def test_a_call_without_requests_is_refused(name: str, tmp_path: Path) -> None:
    model, tok = make_pair("llama")
    with pytest.raises(DataError, match="there are no requests to edit"):
        easyedit_method(name).apply(model, tok, [], hparams_of(name, "llama", tmp_path))
    assert_equal_tensors(model, state_of(make_pair("llama")[0]))


def test_alphaedit_with_the_null_space_of_a_file(tmp_path: Path) -> None:
    """A file with the projector of the second moments gives the same edit; one of another shape is refused."""
    method, (model, tok) = easyedit_method("AlphaEdit"), make_pair("llama")
    method.apply(model, tok, REQUESTS, main_hparams("AlphaEdit", "llama"))
    (projector,) = (value for key, value in model_state_of(model).moments.items() if key[0] == "projector")
    assert not torch.equal(projector[0], torch.eye(len(projector[0]))) and projector.any()
    file = tmp_path / "P.pt"
    torch.save(projector, file)
    again, _ = make_pair("llama")
    method.apply(again, tok, REQUESTS, main_hparams("AlphaEdit", "llama", P_loc=str(file)))
    assert_equal_tensors(again, state_of(model))
    torch.save(projector[:1], file)
    with pytest.raises(HyperParameterError, match=r"P_loc: .* does not hold a tensor of shape \(2, 64, 64\)"):
        method.apply(make_pair("llama")[0], tok, REQUESTS, main_hparams("AlphaEdit", "llama", P_loc=str(file)))
    with pytest.raises(HyperParameterError, match="Use a larger threshold"):
        method.prepare(make_pair("llama")[0], tok, main_hparams("AlphaEdit", "llama", nullspace_threshold=1e-9), None)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("ULTRAEDIT", {"token": "ans"}, "token: 'ans'"),
        ("ULTRAEDIT", {"batch_size_once": 2}, "batch_size_once: 2"),
        ("ULTRAEDIT", {"half": True}, "half: True"),
        ("SimIE", {"base_method": "WISE"}, "base_method: 'WISE'"),
        ("WISE", {"retrieve": False}, "retrieve: false"),
        ("WISE", {"merge_freq": 3}, "merge_freq: 3 is not a multiple"),
        ("WISE", {"load_path": "x"}, "load_path"),
    ],
)
def test_settings_that_compute_something_else_are_refused(
    name: str, changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    model, tok = make_pair("llama")
    hparams = hparams_of(name, "llama", tmp_path)
    for field, value in changes.items():
        setattr(hparams, field, value)
    with pytest.raises(HyperParameterError, match=expected):
        easyedit_method(name).check(model, tok, hparams)


def test_wise_refuses_layers_whose_bias_it_would_lose() -> None:
    with pytest.raises(ModelError, match="without a bias only"):
        easyedit_method("WISE").check(*make_pair("gpt2"), main_hparams("WISE", "gpt2"))


@pytest.mark.parametrize("name", ["AlphaEdit", "SimIE"])
def test_a_subject_that_occurs_twice_is_refused(name: str, tmp_path: Path) -> None:
    request = {"prompt": "Paris and Paris are", "target_new": "Rome", "subject": "Paris", "case_id": "p"}
    with pytest.raises(DataError, match=r"field 'prompt': has the subject 'Paris' more than once"):
        easyedit_method(name).apply(*make_pair("llama"), [request], hparams_of(name, "llama", tmp_path))


@pytest.mark.parametrize("name", ["AlphaEdit", "DEFER", "WISE"])
def test_a_failed_edit_leaves_no_trace(name: str, tmp_path: Path) -> None:
    method, hparams = easyedit_method(name), hparams_of(name, "llama", tmp_path)
    model, tok = make_pair("llama")
    method.apply(model, tok, REQUESTS[:1], hparams)
    before, tensors = state_of(model), dict(model_state_of(model).tensors)
    failing = dataclasses.replace(hparams, **{"v_lr" if name == "AlphaEdit" else "edit_lr": float("nan")})
    with pytest.raises(EditError, match=f"EasyEdit's {name}"):
        method.apply(model, tok, REQUESTS[1:2], failing)
    assert_equal_tensors(model, before)
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in model_state_of(model).tensors.items())


SHIPPED = ("ROME", "R-ROME", "EMMET", "PMET", "AlphaEdit", "ULTRAEDIT", "SimIE", "DEFER", "WISE")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_fit_their_model(name: str) -> None:
    hparams = bridge.read_easyedit_hparams(find_hparams(f"EasyEdit/{name}/smollm2-135m"), f"EasyEdit/{name}")
    model = smollm2_without_weights()
    if name in {"DEFER", "WISE"}:
        easyedit_method(name).check(model, None, hparams)
    else:
        requirements.check_names(model, None, hparams)
        assert all("mlp" in weight for weight in edited_weights(model, hparams))
