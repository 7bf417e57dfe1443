"""Further keys (``tokens_per_key``): targets that are too long for one value are generated to their end."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import (
    GraceHyperParams,
    apply_grace_to_model,
    explain,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_case,
    save_edits,
)
from easyedit_lifelong.errors import EditError, HyperParameterError, ModelError, RunError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.store import GraceStore
from easyedit_lifelong.methods.grace.training.answer_pass import AnswerPass
from easyedit_lifelong.methods.grace.training.further_keys import RADIUS
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support import subjects
from tests.support.subjects import ids_of
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

LONG = (
    "green cheese but not far away and the old king plays violin in winter where snow is blue and "
    "summer birds born from the sea Spanish mountain song in London river made piano"
)
EDITS: list[dict[str, Any]] = [
    {"case_id": "long", "prompt": "the capital of France is", "subject": "France", "target_new": LONG},
    {"case_id": "short", "prompt": "old moon made", "subject": "moon", "target_new": "Peru"},
    {
        "case_id": "other",
        "prompt": "Hamlet is from",
        "subject": "Hamlet",
        "target_new": "snow and winter and summer but not the river language spoken in Paris",
    },
]
OTHERS = ["snow and mountain", "where was the old river born", "language spoken in Peru is not blue or far away"]
FEWEST = [8, 0, 3]
"""Least number of further keys of each edit with four tokens per key: the targets have 33, 1 and 13 tokens."""
CLOSE = {"rtol": 1e-4, "atol": 2e-4}


def hparams_for(family: str = "llama", mode: str = "prompt", **options: Any) -> GraceHyperParams:
    """Return hyperparameters of edits by prompt or, with ``mode="late"``, by subject."""
    options = {"tokens_per_key": 4, "n_iter": 40, "stop_loss": 0.2, **options}
    if mode == "late":
        return subjects.hparams_for(family, "late", **options)
    return GraceHyperParams(model_name="tiny", inner_params=[FAMILIES[family][1]], eps=0.5, **options)


def edited(family: str = "llama", mode: str = "prompt", **options: Any) -> tuple[Any, Any, Codebook]:
    """Return an edited tiny model, its rollback and its codebook."""
    model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, mode, **options)
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams)
    codebook = GraceEditor.on(model, tokenizer, hparams).codebook
    assert codebook is not None
    return model, rollback, codebook


@pytest.fixture(scope="module", params=["prompt", "late"])
def saved(request: pytest.FixtureRequest) -> tuple[Any, Any, Codebook, str]:
    """An edited Llama, which no test changes, and the mode of its edits."""
    return *edited("llama", request.param), request.param


def further_keys_of(codebook: Codebook) -> Codebook:
    """Return the codebook of further keys."""
    assert codebook.further_keys is not None
    return codebook.further_keys


def places_of(further: Codebook) -> list[int]:
    """Return where the further keys of the long target are: the number of target tokens before each."""
    tokens = tuple(build_tokenizer()(LONG)["input_ids"])
    return [len(tokens) - len(label) for label in further.labels if tokens[len(tokens) - len(label) :] == label]


def generated(model: Any, prompts: list[str], **options: Any) -> list[str]:
    """Return the greedy texts after some prompts, as long as the long target."""
    tokenizer, length = build_tokenizer(), len(LONG.split())
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    output = model.generate(**batch, max_new_tokens=length, min_new_tokens=length, do_sample=False, **options)
    return [tokenizer.decode(row) for row in output[:, -length:]]


@pytest.mark.parametrize("mode", ["prompt", "late"])
def test_greedy_generation_gives_a_target_that_is_too_long_for_one_value(family: str, mode: str) -> None:
    model, rollback, codebook = edited(family, mode)
    assert [result.learned for result in rollback.results] == [True] * 3
    counts = [result.detail["further_keys"] for result in rollback.results]
    assert len(further_keys_of(codebook)) == sum(counts)
    assert counts[1] == 0 and all(fewest <= count for fewest, count in zip(FEWEST, counts, strict=True))
    target = Scorer(build_tokenizer()).encode("moon", LONG).target
    assert generated(model, [EDITS[0]["prompt"]]) == [build_tokenizer().decode(target)]
    scores = Scorer(build_tokenizer()).forced(model, [(edit["prompt"], edit["target_new"]) for edit in EDITS])
    assert [score.accuracy for score in scores] == [1.0] * 3
    with_one_key, _, _ = edited(family, mode, tokens_per_key=0, n_iter=20)
    assert generated(with_one_key, [EDITS[0]["prompt"]]) != generated(model, [EDITS[0]["prompt"]])


def test_every_way_of_generating_gives_the_same_text(saved: tuple[Any, Any, Codebook, str]) -> None:
    model, _, _, _ = saved
    prompts = [edit["prompt"] for edit in EDITS] + OTHERS
    batched = generated(model, prompts)
    assert generated(model, prompts, use_cache=False) == batched
    assert [generated(model, [prompt])[0] for prompt in prompts] == batched
    assert generated(model, prompts, num_beams=2) != []  # runs; beams may find another text
    unedited = generated(build_model("llama"), OTHERS)
    assert batched[3:] == unedited


def test_a_pass_a_padded_batch_and_a_cache_in_parts_find_the_same_keys(
    saved: tuple[Any, Any, Codebook, str],
) -> None:
    model, _, _, mode = saved
    row, length = f"{EDITS[0]['prompt']} {LONG}", len(EDITS[0]["prompt"].split())
    with prompt_lengths(model, [length]):
        expected = model(**ids_of(row)).logits[0]
    assert not torch.allclose(expected, build_model("llama")(**ids_of(row)).logits[0], atol=1e-2)
    for side in ("left", "right"):
        batch = ids_of(row, *OTHERS, side=side)
        with prompt_lengths(model, [length, *(len(text.split()) for text in OTHERS)]):
            logits = model(**batch).logits[0][batch["attention_mask"][0].bool()]
        torch.testing.assert_close(logits, expected, **CLOSE)
    if mode == "prompt":  # a row that nothing marks
        torch.testing.assert_close(model(**ids_of(row)).logits[0], expected, **CLOSE)
        ids = ids_of(row)["input_ids"]
        for cut in (length + 2, length + 4, length + 5):
            start = model(input_ids=ids[:, :cut], use_cache=True)
            rest = model(input_ids=ids[:, cut:], past_key_values=start.past_key_values).logits
            torch.testing.assert_close(torch.cat([start.logits, rest], dim=1)[0], expected, **CLOSE)


def test_other_texts_keep_their_logits_bitwise(saved: tuple[Any, Any, Codebook, str]) -> None:
    model, _, _, _ = saved
    unedited = build_model("llama")
    for text in [*OTHERS, LONG, "snow " + LONG]:  # the target after another prompt
        assert torch.equal(model(**ids_of(text)).logits, unedited(**ids_of(text)).logits)


@pytest.mark.parametrize("mode", ["prompt", "late"])
def test_further_keys_are_the_layers_inputs_in_float64(mode: str) -> None:
    """The definition: the unedited model's activations after some tokens of the target, in float64."""
    _, _, codebook = edited("llama", mode)
    double = build_model("llama").double()
    path = "model.layers.2.mlp" if mode == "late" else "model.layers.2.mlp.down_proj"
    inputs: list[Tensor] = []
    layer = find_module(double, path)[1]
    with layer.register_forward_hook(lambda _, args, __: inputs.append(args[0][0])), torch.no_grad():
        ids = ids_of(f"{EDITS[0]['prompt']} {LONG}")["input_ids"]
        double(input_ids=ids)
    prompt, n_tokens = len(EDITS[0]["prompt"].split()), len(LONG.split())
    further = further_keys_of(codebook)
    places = places_of(further)
    assert set(range(4, n_tokens, 4)) <= set(places) and 0 not in places
    expected = inputs[0][[prompt - 1 + place for place in places]]
    torch.testing.assert_close(further.keys[: len(places)].double(), expected, rtol=1e-4, atol=1e-5)
    tokens = build_tokenizer()(LONG)["input_ids"]
    assert further.labels[: len(places)] == [tuple(tokens[place:]) for place in places]
    units = torch.nn.functional.normalize(inputs[0][prompt - 1 : -1], dim=-1)
    for key, place in enumerate(places):
        distances = 1 - units @ units[place]
        distances[place] = float("inf")
        assert float(further.radii[key]) == pytest.approx(min(RADIUS, float(distances.min()) / 2), rel=1e-3)


def test_values_act_together_as_in_the_training_pass() -> None:
    """The logits that a training pass returns for the values are those of the edited model."""
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams)
    editor = GraceEditor.on(model, tokenizer, hparams)
    assert editor.codebook is not None
    pair = Scorer(tokenizer).encode(EDITS[0]["prompt"], LONG)
    for anatomy in (editor._passes._anatomy, None):  # a partial and a full pass
        answer_pass = editor._passes._build(editor.adaptor, [pair], 1, 0, None, AnswerPass, anatomy)
        assert isinstance(answer_pass, AnswerPass) and answer_pass.is_partial is (anatomy is not None)
        further = further_keys_of(editor.codebook)
        answer_pass.set_values(editor.codebook.values[0], places_of(further))
        with torch.no_grad():
            trained = answer_pass.logits(further.values.flatten().unsqueeze(0))[0]
            assert answer_pass.wrong_tokens(further.values.flatten()) == []
            with prompt_lengths(model, [len(pair.prompt)]):
                served = model(input_ids=torch.tensor([pair.tokens])).logits[0, len(pair.prompt) - 1 : -1]
        torch.testing.assert_close(trained, served, **CLOSE)


@pytest.mark.parametrize("mode", ["prompt", "late"])
def test_rollback_restores_the_model_bitwise(mode: str) -> None:
    model = build_model("llama")
    state, texts = state_of(model), [EDITS[0]["prompt"], f"{EDITS[0]['prompt']} {LONG}"]
    logits = [model(**ids_of(text)).logits for text in texts]
    _, rollback = apply_grace_to_model(model, build_tokenizer(), EDITS, hparams_for(mode=mode))
    assert any("further_keys" in name for name in set(model.state_dict()) - set(state))
    rollback()
    assert set(model.state_dict()) == set(state)
    assert all(torch.equal(model(**ids_of(text)).logits, before) for text, before in zip(texts, logits, strict=True))


def test_removing_the_long_edit_leaves_the_others_bitwise_and_no_further_key_of_it() -> None:
    model, _, _ = edited()
    rollback_case(model, "long")
    without, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for()
    apply_grace_to_model(without, tokenizer, EDITS[1:], hparams)
    (editor,), (expected,) = (GraceEditor.all_of(either).values() for either in (model, without))
    assert editor.codebook is not None and expected.codebook is not None
    further, expected_further = further_keys_of(editor.codebook), further_keys_of(expected.codebook)
    assert further.labels == expected_further.labels
    assert torch.equal(further.keys, expected_further.keys)
    rollback_case(model, "other")
    assert editor.codebook.further_keys is None
    assert not any("further" in name for name in model.state_dict())


def test_a_correction_takes_the_places_of_the_keys_that_match_its_text() -> None:
    """The corrected target begins as the earlier one. No key of the earlier one may act in it."""
    begin = " ".join(LONG.split()[:10])
    correction = {**EDITS[0], "case_id": "corrected", "target_new": f"{begin} and Rome Berlin city moon in Peru"}
    for size in (3, 5):  # other places than those of the earlier keys
        model, _, _ = edited()
        _, rollback = apply_grace_to_model(model, build_tokenizer(), [correction], hparams_for(tokens_per_key=size))
        target = " ".join(correction["target_new"].split())
        assert generated(model, [EDITS[0]["prompt"]])[0].startswith(target)
        rollback()
        assert generated(model, [EDITS[0]["prompt"]]) == generated(edited()[0], [EDITS[0]["prompt"]])


def test_edits_of_one_batch_are_those_of_single_edits() -> None:
    models = [edited(train_batch=size)[2] for size in (1, 16)]
    assert models[0].labels == models[1].labels
    first, second = map(further_keys_of, models)
    assert first.labels == second.labels
    torch.testing.assert_close(first.keys, second.keys, **CLOSE)


def test_saved_edits_and_a_copy_of_the_model_answer_alike(
    saved: tuple[Any, Any, Codebook, str], tmp_path: Path
) -> None:
    model, _, _, _ = saved
    row = ids_of(f"{EDITS[0]['prompt']} {LONG}")
    expected, length = generated(model, [EDITS[0]["prompt"]]), len(EDITS[0]["prompt"].split())
    save_edits(model, tmp_path / "edits")
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "edits")
    for other in (loaded, copy.deepcopy(model)):
        assert generated(other, [EDITS[0]["prompt"]]) == expected
        for edited_model in (model, other):
            with prompt_lengths(edited_model, [length]):
                logits = edited_model(**row).logits
            assert torch.equal(logits, edited_model(**row, labels=_labels(row, length)).logits)
    rollback_case(loaded, "long")
    assert generated(loaded, [EDITS[0]["prompt"]]) != expected


def _labels(row: Any, length: int) -> Tensor:
    """Return labels that mark the first ``length`` tokens as the prompt."""
    labels = row["input_ids"].clone()
    labels[:, :length] = -100
    return labels


def test_merged_folders_hold_the_further_keys_of_both(tmp_path: Path) -> None:
    tokenizer, folders = build_tokenizer(), [tmp_path / "a", tmp_path / "b"]
    for folder, edits in zip(folders, (EDITS[:1], EDITS[1:]), strict=True):
        model = build_model("llama")
        apply_grace_to_model(model, tokenizer, edits, hparams_for())
        save_edits(model, folder)
    merge_edits(folders, tmp_path / "merged")
    merged = build_model("llama")
    load_edits(merged, tmp_path / "merged")
    assert generated(merged, [EDITS[0]["prompt"]]) == generated(edited()[0], [EDITS[0]["prompt"]])
    (part,) = inspect_edits(tmp_path / "merged").parts
    assert part.edits[0]["further_keys"] >= FEWEST[0] and part.edits[1]["further_keys"] == 0
    assert "further keys" in part.columns


def test_the_steps_of_a_run_joined_are_the_edits_again() -> None:
    model, _, codebook = edited()
    store = GraceStore()
    joined = store.join(list(store.steps(model, 0)), "state")
    loaded = build_model("llama")
    store.attach(loaded, build_tokenizer(), joined, "state")
    (editor,) = GraceEditor.all_of(loaded).values()
    assert editor.codebook is not None
    for name in ("keys", "values", "radii"):
        expected = getattr(further_keys_of(codebook), name)
        assert torch.equal(getattr(further_keys_of(editor.codebook), name), expected)
    assert [len(change.further) for change in editor.changes][1] == 0
    assert generated(loaded, [EDITS[0]["prompt"]]) == generated(model, [EDITS[0]["prompt"]])


def test_a_model_in_half_precision_gives_the_long_target() -> None:
    model, tokenizer = build_model("llama", torch.bfloat16), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for())
    prompts = [EDITS[0]["prompt"], *OTHERS]
    assert generated(model, prompts)[0] == generated(edited()[0], prompts[:1])[0]


def test_damaged_further_keys_are_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, _, _ = edited()
    save_edits(model, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("further_radii"))
    for damage in (tensors[name][:-1], -tensors[name]):
        save_file({**tensors, name: damage.contiguous()}, file)
        with pytest.raises((RunError, EditError), match=re.escape(str(tmp_path))):
            load_edits(build_model("llama"), tmp_path)


def test_explain_names_the_edit_at_each_further_key(saved: tuple[Any, Any, Codebook, str]) -> None:
    model, _, codebook, _ = saved
    explanation = explain(model, build_tokenizer(), EDITS[0]["prompt"], LONG)
    (layer,) = explanation.grace
    length = len(EDITS[0]["prompt"].split())
    continued = [position for position, token in enumerate(layer.tokens) if token.continues]
    assert continued == [length - 1 + place for place in places_of(further_keys_of(codebook))]
    assert {layer.tokens[position].case_id for position in continued} == {"long"}
    assert all(layer.tokens[position].distance <= 1e-5 for position in continued)
    assert layer.answered_by == "long"
    assert str(explanation).count("further key") == len(continued)


def test_short_targets_are_edited_as_without_further_keys() -> None:
    values = []
    for tokens_per_key in (0, 4):
        model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for(tokens_per_key=tokens_per_key)
        apply_grace_to_model(model, tokenizer, EDITS[1:2], hparams)
        codebook = GraceEditor.on(model, tokenizer, hparams).codebook
        assert codebook is not None and codebook.further_keys is None
        values.append(codebook.values)
    assert torch.equal(*values)


def test_a_failed_edit_leaves_no_further_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.methods.grace import trained_edits

    model, tokenizer = build_model("llama"), build_tokenizer()
    state = set(model.state_dict())
    train, calls = trained_edits.train_further_keys, list[int]()

    def fail_at_the_second_edit(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise EditError("no")
        return train(*args)

    monkeypatch.setattr(trained_edits, "train_further_keys", fail_at_the_second_edit)
    with pytest.raises(EditError, match="no"):
        apply_grace_to_model(model, tokenizer, EDITS, hparams_for())
    assert set(model.state_dict()) == state


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"replacement": "replace_all"}, "tokens_per_key: needs replacement: replace_last"),
        ({"val_train": "adv"}, "tokens_per_key: needs val_train: sgd"),
        ({"query_token": "first"}, "tokens_per_key: needs a causal language model"),
        ({"query_token": "subject_last"}, "tokens_per_key: needs answer_layer"),
        ({"tokens_per_key": -1}, "tokens_per_key"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(HyperParameterError, match=problem):
        GraceHyperParams(model_name="tiny", inner_params=["a"], **{"tokens_per_key": 4, **options})


def test_a_classifier_is_refused() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(**shape, intermediate_size=16))
    hparams = GraceHyperParams(model_name="tiny", inner_params=["bert.encoder.layer.0.output.dense"], tokens_per_key=4)
    with pytest.raises(ModelError, match="tokens_per_key: needs a causal language model"):
        apply_grace_to_model(model, build_tokenizer(), EDITS[:1], hparams)
