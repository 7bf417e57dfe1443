"""CoachHook on models of every family: editing, taking back, and failing without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError, ModelError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.coachhook.hook_layers import HookLayers, WeightsWithoutHooks
from easyedit_lifelong.methods.coachhook.layer import Mode
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from easyedit_lifelong.methods.locate_edit import editor as editing
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys
from easyedit_lifelong.models.prompt_positions import PositionTracker
from tests.support.coachhook_edits import (
    FACTS,
    LEARNABLE,
    OTHERS,
    anatomy_of_everything,
    editor_on,
    hparams_for,
    moments_for,
    requests_for,
    same_tensors,
)
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

PROMPTS = [prompt for prompt, _, _ in FACTS] + OTHERS


def logits_of(model: Any, prompts: list[str] = PROMPTS) -> list[torch.Tensor]:
    tokenizer = build_tokenizer()
    with torch.no_grad():
        return [model(**tokenizer(prompt, return_tensors="pt")).logits for prompt in prompts]


def all_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Picture:
    """Everything about a model that an edit may change, to compare with later."""

    def __init__(self, model: Any) -> None:
        self.state, self.logits, self.parts = state_of(model), logits_of(model), anatomy_of_everything(model)
        editor = CoachHookEditor.of(model)
        self.batches = list(editor.state.batches) if editor else None
        self.alphas = editor.alphas if editor else None
        self.c_accu = {p: a.matrix() for p, a in editor._solvers.items()} if editor else {}

    def holds(self, model: Any) -> None:
        now = Picture(model)
        assert same_tensors(now.state, self.state)
        assert all_equal(now.logits, self.logits)
        assert now.parts == self.parts
        assert now.batches == self.batches
        assert now.alphas == self.alphas
        assert now.c_accu.keys() == self.c_accu.keys()
        assert all(torch.equal(now.c_accu[path], matrix) for path, matrix in self.c_accu.items())


KINDS: list[dict[str, Any]] = [{}, {"wohk": True}, {"scope_score": "weighed", "alpha_z": 1.0}]


@pytest.mark.parametrize("options", KINDS)
def test_rollback_restores_everything_bitwise(family: str, options: dict[str, Any]) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    before = Picture(model)
    _, undo = editor_on(model, tokenizer, hparams_for(family, **options)).edit(requests_for())
    after = logits_of(model, [FACTS[3][0]])
    assert not torch.equal(after[0], before.logits[3])
    undo()
    before.holds(model)
    assert CoachHookEditor.of(model) is None
    assert PositionTracker.of(model) is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_only_the_last_batches_are_taken_back(family: str, options: dict[str, Any]) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    hparams = hparams_for(family, **options, batch_size=1)
    editor = editor_on(model, tokenizer, hparams)
    pictures, ways_back = [Picture(model)], []
    for number in range(4):
        ways_back.append(editor.edit(requests_for(number))[1])
        pictures.append(Picture(model))
    with pytest.raises(EditError, match="later CoachHook batches"):
        ways_back[1]()
    pictures[4].holds(model)
    for number in (3, 2, 1):
        ways_back[number]()
        pictures[number].holds(model)

    assert len(editor.state.batches) == 1
    ways_back[0]()
    assert same_tensors(state_of(model), pictures[0].state)
    assert CoachHookEditor.of(model) is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_after_a_rollback_editing_goes_on_as_if_it_had_never_been(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    editor = editor_on(model, tokenizer, hparams_for(family))
    editor.edit(requests_for(0, 1))
    editor.edit(requests_for(2))[1]()
    editor.edit(requests_for(3))
    other = build_model(family)
    straight = editor_on(other, tokenizer, hparams_for(family))
    straight.edit(requests_for(0, 1))
    straight.edit(requests_for(3))
    assert same_tensors(state_of(model), state_of(other))
    assert editor.alphas == straight.alphas


def test_a_copy_goes_back_alone() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = state_of(model)
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    _, undo = editor.edit(requests_for(0, 1))
    edited = Picture(model)
    twin, undo_twin = copy.deepcopy((model, undo))
    undo_twin()
    assert same_tensors(state_of(twin), before)
    assert PositionTracker.of(twin) is None
    edited.holds(model)
    another = copy.deepcopy(model)
    coachhook_editor(another).edit(requests_for(2))
    edited.holds(model)
    undo()
    assert same_tensors(state_of(model), before)
    assert not all_equal(logits_of(another), logits_of(model))


def grace_for(family: str) -> GraceHyperParams:
    return GraceHyperParams(model_name="tiny", inner_params=[FAMILIES[family][1]], eps=0.5, n_iter=40, stop_loss=0.2)


@pytest.mark.parametrize("grace_first", [True, False])
@pytest.mark.parametrize("grace_leaves_first", [True, False])
def test_beside_grace(family: str, grace_first: bool, grace_leaves_first: bool) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    before = Picture(model)
    grace_edit = [{"prompt": "snow and mountain", "target_new": "Peru"}]

    def with_coachhook() -> Callable[[], None]:
        return editor_on(model, tokenizer, hparams_for(family)).edit(requests_for(0, 1))[1]

    def with_grace() -> Any:
        _, rollback = apply_grace_to_model(model, tokenizer, grace_edit, grace_for(family))
        assert rollback.results[0].learned
        return rollback

    if grace_first:
        no_grace, no_coachhook = with_grace(), with_coachhook()
    else:
        no_coachhook, no_grace = with_coachhook(), with_grace()
    answer = model.generate(**tokenizer("snow and mountain", return_tensors="pt"), max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(answer[0, -1:]) == "Peru"
    for leave in [no_grace, no_coachhook] if grace_leaves_first else [no_coachhook, no_grace]:
        leave()
    before.holds(model)


@pytest.mark.parametrize("grace_layer", [0, 1, 3])
def test_grace_edits_below_hook_layers_and_above_them(grace_layer: int) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor_on(model, tokenizer, hparams_for("llama")).edit(requests_for(0, 1))
    hparams = GraceHyperParams(
        model_name="tiny",
        inner_params=[f"model.layers[{grace_layer}].mlp.down_proj.weight"],
        eps=0.5,
        n_iter=60,
        stop_loss=0.2,
    )
    _, rollback = apply_grace_to_model(
        model, tokenizer, [{"prompt": "snow and mountain", "target_new": "Peru"}], hparams
    )
    assert rollback.results[0].learned
    answer = model.generate(**tokenizer("snow and mountain", return_tensors="pt"), max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(answer[0, -1:]) == "Peru"


# A batch that fails midway, at any stage of it.


def poisoned(function: Callable[..., Any], call: int, spoil: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function whose n-th call's answer is spoiled."""
    calls = [0]

    def poison(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        calls[0] += 1
        return spoil(answer) if calls[0] == call else answer

    return poison


def raising(_: Any) -> Any:
    raise KeyboardInterrupt


def nans(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan"))


STAGES: dict[str, tuple[Any, str, int, Callable[[Any], Any]]] = {
    "the first layer's keys": (EditingPasses, "keys_and_outputs", 1, lambda answer: (nans(answer[0]), answer[1])),
    "the first layer's residual": (EditingPasses, "keys_and_outputs", 1, lambda answer: (answer[0], nans(answer[1]))),
    "the second layer's keys": (EditingPasses, "keys_and_outputs", 2, lambda answer: (nans(answer[0]), answer[1])),
    "the last layer's residual": (EditingPasses, "keys_and_outputs", 3, lambda answer: (answer[0], nans(answer[1]))),
    "the second layer's solve": (AccumulatedKeys, "solve", 2, nans),
    "the third layer's factor": (AccumulatedKeys, "add", 3, raising),
    "the second batch's solve": (AccumulatedKeys, "solve", 5, nans),
    "alphas": (EditingPasses, "inputs_for_prompts", 1, lambda answer: ([nans(x) for x in answer[0]], answer[1])),
    "the end": (HookLayers, "finish_batch", 1, raising),
    "the second batch's end": (HookLayers, "finish_batch", 2, raising),
    "values": (editing, "optimise_targets", 1, raising),
    "the second batch's values": (editing, "optimise_targets", 2, raising),
}


IN_WEIGHTS = ("the last layer's residual", "the second batch's solve", "the second batch's end")


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize(
    ("stage", "wohk"), [*((stage, False) for stage in STAGES), *((stage, True) for stage in IN_WEIGHTS)]
)
def test_a_batch_that_fails_leaves_no_trace(
    stage: str, wohk: bool, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    model.train()
    hparams = hparams_for("llama", batch_size=1, v_num_grad_steps=4, wohk=wohk)
    if edited:
        editor_on(model, tokenizer, hparams).edit(requests_for(3))
    before = Picture(model)
    owner, name, call, spoil = STAGES[stage]
    if wohk and owner is HookLayers:
        owner = WeightsWithoutHooks
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, poisoned(getattr(owner, name), call, spoil))
        with pytest.raises((EditError, KeyboardInterrupt)):
            editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    before.holds(model)
    # And the next one goes as if nothing had happened.
    editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    other = build_model("llama")
    if edited:
        editor_on(other, tokenizer, hparams).edit(requests_for(3))
    editor_on(other, tokenizer, hparams).edit(requests_for(0, 1))
    assert same_tensors(state_of(model), state_of(other))


@pytest.mark.parametrize("edited", [False, True])
def test_a_bad_record_leaves_no_trace(edited: bool) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    if edited:
        editor_on(model, tokenizer, hparams_for("llama", batch_size=1)).edit(requests_for(3))
    before = Picture(model)
    bad = EditRequest(9, "the capital of France is", "Rome", "Peru", source="facts.json, record 9")
    with pytest.raises(DataError, match=r"facts.json, record 9"):
        editor_on(model, tokenizer, hparams_for("llama", batch_size=1)).edit([*requests_for(0, 1), bad])
    before.holds(model)


def test_one_prompt_with_two_targets_in_a_batch_is_refused_by_name() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Picture(model)
    twice = [
        EditRequest(i, "the capital of France is", t, "France", source=f"record {i}")
        for i, t in enumerate(["Rome", "Peru"])
    ]
    with pytest.raises(EditError, match=r"record 1 .*field 'prompt': record 0 "):
        editor_on(model, tokenizer, hparams_for("llama")).edit(twice)
    before.holds(model)
    editor_on(model, tokenizer, hparams_for("llama", batch_size=1)).edit(twice)


@pytest.mark.parametrize("prompt", ["France", "France France France"])
def test_a_prompt_without_z_scores_is_named(prompt: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Picture(model)
    request = EditRequest(3, prompt, "Rome", "France", source="facts.json, record 3")
    hparams = hparams_for("llama", layers=[0])  # the same word three times has three different keys further up
    if prompt == "France":
        with pytest.raises(EditError, match=r"facts.json, record 3 .*field 'prompt': 'France.* no z-scores"):
            editor_on(model, tokenizer, hparams).edit([request])
        before.holds(model)
    else:
        editor_on(model, tokenizer, hparams).edit([request])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers", [1, 4], "layers: there is no block 4; the last one is 3"),
        ("rewrite_module_tmp", "model.layers.{}.mlp.c_proj", "rewrite_module_tmp: .* 'c_proj'"),
        ("layer_module_tmp", "transformer.h.{}", "layer_module_tmp: "),
        ("rewrite_module_tmp", "model.layers.{}.mlp", "rewrite_module_tmp: .* is not a linear projection"),
        ("rewrite_module_tmp", "model.layers.{}.input_layernorm", "rewrite_module_tmp: .* is not a linear projection"),
        ("v_loss_layer", 4, "v_loss_layer: there is no block 4"),
    ],
)
def test_a_model_without_such_layers_stays_as_it_is(name: str, value: Any, message: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Picture(model)
    hparams = hparams_for("llama", **{name: value})
    with pytest.raises(ModelError, match=message):
        CoachHookEditor.on(model, tokenizer, hparams, {})
    before.holds(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", [1, 2]),
        ("num_layers", 1),
        ("fact_token", "last"),
        ("alpha_z", 1.0),
        ("wohk", True),
        ("mom2_update_weight", 5.0),
    ],
)
def test_other_settings_cant_go_on(name: str, value: Any) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor_on(model, tokenizer, hparams_for("llama")).edit(requests_for(0))
    before = Picture(model)
    with pytest.raises(EditError, match=f"made with {name}="):
        editor_on(model, tokenizer, hparams_for("llama", **{name: value}))
    before.holds(model)
    editor_on(model, tokenizer, hparams_for("llama", v_lr=0.3, batch_size=5)).edit(requests_for(1))


def test_alpha_only_falls_and_is_the_batchs_smallest_highest_score() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    before = editor.alphas
    assert set(before.values()) == {2.2}
    for numbers in ((0, 1), (2, 3)):
        results, _ = editor.edit(requests_for(*numbers))
        last = list(editor.alphas)[-1]
        smallest = min(result.detail["highest_z_score"] for result in results)
        assert editor.alphas[last] == min(before[last], smallest)
        assert all(editor.alphas[path] <= before[path] for path in before)
        before = editor.alphas
    # The first hook layer sees what it saw in the unedited model: there the scores are the deciding ones.
    first = next(iter(editor.alphas))
    scores = z_scores(model, tokenizer, [FACTS[2][0], FACTS[3][0]])[first]
    assert min(float(s.max()) for s in scores) >= editor.alphas[first] - 1e-4


def test_weights_keep_their_dtype_and_hook_weights_theirs() -> None:
    tokenizer = build_tokenizer()
    model = build_model("llama", torch.bfloat16)
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    editor.edit(requests_for(0, 1))
    deltas = {name: tensor for name, tensor in model.state_dict().items() if "coachhook" in name}
    assert {tensor.dtype for name, tensor in deltas.items() if name.endswith("delta")} == {torch.float32}
    assert {tensor.dtype for name, tensor in deltas.items() if name.endswith("alpha")} == {torch.float64}
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    for move in (model.float, model.half, model.double, lambda: model.to(torch.bfloat16)):
        move()
        now = model.state_dict()
        assert all(
            torch.equal(now[name], tensor) and now[name].dtype == tensor.dtype for name, tensor in deltas.items()
        )
    editor.edit(requests_for(2, 3))
    assert all(torch.isfinite(logits).all() for logits in logits_of(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("number", range(len(FACTS)))
def test_a_model_cast_after_the_edit_still_uses_its_hook_weights(number: int, dtype: torch.dtype) -> None:
    # α is the smallest of the highest scores: at that very prompt, rounding alone decides.
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor = editor_on(model, tokenizer, hparams_for("llama", layers=[2]))
    editor.edit(requests_for(number))
    model.to(dtype)
    edited = logits_of(model, [FACTS[number][0]])
    for hook in editor.hooks.values():
        hook.mode = Mode.OFF
    assert not all_equal(edited, logits_of(model, [FACTS[number][0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wohk", [False, True])
def test_an_edit_is_learned_and_said(family: str, dtype: torch.dtype, wohk: bool) -> None:
    model, tokenizer = build_model(family, dtype), build_tokenizer()
    prompt, target, subject = LEARNABLE
    if family == "gemma2" and dtype == torch.float64:
        pytest.skip("Gemma 2 itself computes NaN for left-padded rows in float64")
    hparams = hparams_for(family, layers=[2], mom2_update_weight=1e-3, wohk=wohk, v_num_grad_steps=30)
    results, _ = editor_on(model, tokenizer, hparams).edit([EditRequest(0, prompt, target, subject)])
    assert results[0].learned
    assert results[0].steps > 0
    if family == "gemma2":
        return  # it normalises what its MLP returns: what is written can't have its full say
    for cache in (True, False):
        ids = model.generate(
            **tokenizer(prompt, return_tensors="pt"), max_new_tokens=1, do_sample=False, use_cache=cache
        )
        assert tokenizer.decode(ids[0, -1:]) == target


def test_z_scores_need_hook_layers() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(EditError, match="no CoachHook edits"):
        z_scores(model, tokenizer, ["the capital"])
    editor_on(model, tokenizer, hparams_for("llama", wohk=True)).edit(requests_for(0))
    with pytest.raises(EditError, match="hook"):
        z_scores(model, tokenizer, ["the capital"])


def test_gradients_still_flow_through_an_edited_model() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor_on(model, tokenizer, hparams_for("llama")).edit(requests_for(0, 1))
    ids = tokenizer(FACTS[0][0], return_tensors="pt").input_ids
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.model.layers[2].mlp.parameters())


def test_rolled_back_for_good() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    editor.edit(requests_for(0))[1]()
    with pytest.raises(EditError, match=r"get a new one with CoachHookEditor\.on"):
        editor.edit(requests_for(1))


def test_moments_of_few_tokens_are_regularised() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    hparams = hparams_for("llama", layers=[1])
    moments = moments_for(model, hparams, count=10)
    editor = CoachHookEditor.on(model, tokenizer, hparams, moments, [["{}"]])
    editor.edit(requests_for(0))
    (path,) = moments
    base = moments[path].moment.double()
    keys = torch.cat([batch.layers[path].keys for batch in editor.state.batches], dim=1).double()
    c_accu = editor._solvers[path].matrix()
    extra = c_accu - base - keys @ keys.t()
    share = 0.01 * (1 - 10 / (4 * len(base)))
    torch.testing.assert_close(
        extra, share * base.diagonal().mean() * torch.eye(len(base)).double(), atol=1e-12, rtol=1e-6
    )
