"""GRACE on encoder-decoders and classifiers that know something: what is edited, and what is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model, explain, load_edits, save_edits
from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.pairs import encoder_for
from tests.support.architectures import ARCHITECTURES, LABELS, Architecture
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer, state_of

MODES = ("replace_last", "replace_all", "replace_prompt")
PLACES = [
    (name, mode)
    for name in ARCHITECTURES
    for mode in MODES
    if not (name.endswith("decoder") and mode == "replace_prompt")  # refused: see below
]
_BY_DEFAULT = ("t5-encoder", "bart-decoder", "bert-first")
SOME_PLACES = default_cases(PLACES, *(place for place in PLACES if place[0] in _BY_DEFAULT))
"""Encoders have every mode; the answer of a decoder comes token by token, as that of a causal model."""

OUT_OF_REACH = {
    ("bart-encoder", "replace_last"),
    ("bert-last", "replace_last"),
    ("bart-decoder", "replace_all"),
}
"""Where no value says enough in so small a model: one token of many, or the same value at all of an answer's."""


@pytest.fixture(params=sorted(ARCHITECTURES))
def place(request: pytest.FixtureRequest) -> Architecture:
    """Every architecture and edited place in turn."""
    return ARCHITECTURES[request.param]


def logits_of(model: Any, tokenizer: Any, questions: list[tuple[str, str]], side: str = "right", extra: int = 0) -> Any:
    """Return what a model says to questions in one batch, at their real targets, one after the other."""
    pairs = [encoder_for(model, tokenizer)(*question) for question in questions]
    width = max(len(pair.prompt) for pair in pairs) + extra
    rows = [
        [0] * (width - len(p.prompt)) + p.prompt if side == "left" else p.prompt + [0] * (width - len(p.prompt))
        for p in pairs
    ]
    ids = torch.tensor(rows)
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if model.config.is_encoder_decoder:
        longest = max(len(pair.target) for pair in pairs)
        labels = torch.tensor([pair.target + [-100] * (longest - len(pair.target)) for pair in pairs])
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
    with torch.no_grad():
        logits = model(**inputs).logits
    logits = logits if logits.dim() == 3 else logits.unsqueeze(1)
    return torch.cat([logits[row, : len(pair.target)] for row, pair in enumerate(pairs)])


def questions_of(place: Architecture) -> list[tuple[str, str]]:
    return [(request["prompt"], request["target_new"]) for request in place.requests]


@pytest.mark.parametrize(("name", "mode"), SOME_PLACES)
def test_edits_are_learned_and_nothing_else_changes(name: str, mode: str) -> None:
    place = ARCHITECTURES[name]
    model, tokenizer = place.build()
    scorer, others = scorer_for(model, tokenizer), place.others
    assert all(answer.exact for answer in scorer.forced(model, others)), "the small model was taught this"
    before = [logits_of(model, tokenizer, [question]) for question in others]
    _, rollback = apply_grace_to_model(model, tokenizer, place.requests, place.hparams(replacement=mode))
    learned = [result.learned for result in rollback.results]
    assert all(learned) or (name, mode) in OUT_OF_REACH
    assert [answer.exact for answer in scorer.forced(model, questions_of(place))] == learned
    if scorer.generates_text:
        prompts, targets = zip(*questions_of(place), strict=True)
        said = scorer.generate(model, prompts, 8)
        assert [text == target for text, target in zip(said, targets, strict=True)] == learned
    for question, unedited in zip(others, before, strict=True):
        assert torch.equal(logits_of(model, tokenizer, [question]), unedited)


@pytest.mark.parametrize(("name", "mode"), SOME_PLACES)
def test_batch_and_padding_change_nothing(name: str, mode: str) -> None:
    place = ARCHITECTURES[name]
    model, tokenizer = place.build()
    apply_grace_to_model(model, tokenizer, place.requests, place.hparams(replacement=mode, n_iter=5))
    asked = [*questions_of(place), *place.others[:6]]
    alone = torch.cat([logits_of(model, tokenizer, [question]) for question in asked])
    torch.testing.assert_close(logits_of(model, tokenizer, asked), alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_of(model, tokenizer, asked, extra=3), alone, rtol=1e-4, atol=1e-4)
    if place.kind == "t5":  # its positions are relative, so padding may come first
        torch.testing.assert_close(logits_of(model, tokenizer, asked, "left", 2), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", default_cases([name for name in ARCHITECTURES if not name.startswith("bert")], "t5-decoder", "bart-encoder")
)
@pytest.mark.parametrize("mode", ["replace_last", "replace_all"])
def test_cache_beams_and_batches_write_the_same(name: str, mode: str) -> None:
    place = ARCHITECTURES[name]
    model, tokenizer = place.build()
    apply_grace_to_model(model, tokenizer, place.requests, place.hparams(replacement=mode))
    prompts = [prompt for prompt, _ in [*questions_of(place), *place.others[:4]]]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "max_new_tokens": 6}
    texts = [
        tokenizer.batch_decode(model.generate(**asked, **options), skip_special_tokens=True)
        for options in ({}, {"use_cache": False}, {"num_beams": 3})
    ]
    assert texts[0] == texts[1]
    if (name, mode) not in OUT_OF_REACH:
        assert texts[2][:4] == texts[0][:4] == [target for _, target in questions_of(place)]
    for prompt, text in zip(prompts, texts[0], strict=True):
        one = tokenizer(prompt, return_tensors="pt")
        alone = model.generate(input_ids=one["input_ids"], attention_mask=one["attention_mask"], max_new_tokens=6)
        assert tokenizer.decode(alone[0], skip_special_tokens=True) == text


def test_rollback_leaves_nothing(place: Architecture) -> None:
    model, tokenizer = place.build()
    state, logits = state_of(model), logits_of(model, tokenizer, questions_of(place))
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    _, rollback = apply_grace_to_model(model, tokenizer, place.requests, place.hparams(n_iter=3))
    assert not torch.equal(logits_of(model, tokenizer, questions_of(place)), logits)
    rollback()
    assert torch.equal(logits_of(model, tokenizer, questions_of(place)), logits)
    after = model.state_dict()
    assert set(after) == set(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes


def test_a_copy_has_edits_of_its_own(place: Architecture) -> None:
    model, tokenizer = place.build()
    logits = logits_of(model, tokenizer, questions_of(place))
    edited, rollback = apply_grace_to_model(model, tokenizer, place.requests, place.hparams(n_iter=3), copy=True)
    assert torch.equal(logits_of(model, tokenizer, questions_of(place)), logits)
    said = logits_of(edited, tokenizer, questions_of(place))
    again = copy.deepcopy(edited)
    rollback()
    assert torch.equal(logits_of(edited, tokenizer, questions_of(place)), logits)
    assert torch.equal(logits_of(again, tokenizer, questions_of(place)), said)


def test_standing_in_for_lower_blocks_trains_the_same_value(place: Architecture) -> None:
    values = []
    for in_part in (True, False):
        model, tokenizer = place.build()
        hparams = place.hparams(n_iter=10, reg=None, edit_lr=0.1)
        editor = GraceEditor.on(model, tokenizer, hparams)
        if not in_part:
            editor._passes.replay_support = (False, 0)
        apply_grace_to_model(model, tokenizer, place.requests, hparams)
        assert editor.replay_support[0] is in_part
        assert editor.codebook is not None
        values.append(editor.codebook.values)
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-3)


def test_loaded_edits_go_on(place: Architecture, tmp_path: Path) -> None:
    model, tokenizer = place.build()
    apply_grace_to_model(model, tokenizer, place.requests[:2], place.hparams(n_iter=5))
    save_edits(model, tmp_path)
    apply_grace_to_model(model, tokenizer, place.requests[2:], place.hparams(n_iter=5))
    again, tokenizer = place.build()
    load_edits(again, tmp_path)
    apply_grace_to_model(again, tokenizer, place.requests[2:], place.hparams(n_iter=5))
    asked = questions_of(place)
    assert torch.equal(logits_of(again, tokenizer, asked), logits_of(model, tokenizer, asked))


def test_two_stacks_of_one_model_can_be_edited_and_taken_back_in_any_order() -> None:
    encoder, decoder = ARCHITECTURES["t5-encoder"], ARCHITECTURES["t5-decoder"]
    for first_off in (0, 1):
        model, tokenizer = encoder.build()
        attributes = {path: set(vars(module)) for path, module in model.named_modules()}
        unedited = logits_of(model, tokenizer, questions_of(encoder))
        _, one = apply_grace_to_model(model, tokenizer, encoder.requests[:2], encoder.hparams())
        _, two = apply_grace_to_model(model, tokenizer, decoder.requests[2:], decoder.hparams())
        assert all(answer.exact for answer in scorer_for(model, tokenizer).forced(model, questions_of(encoder)))
        for rollback in ((one, two), (two, one))[first_off]:
            rollback()
        assert torch.equal(logits_of(model, tokenizer, questions_of(encoder)), unedited)
        assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes


def test_a_label_can_be_a_name_or_a_number_and_nothing_else() -> None:
    place = ARCHITECTURES["bert-first"]
    model, tokenizer = place.build()
    encode = encoder_for(model, tokenizer)
    assert encode("the old king", "nature").target == encode("the old king", "2").target == [2]
    request = {"prompt": "the old king", "target_new": "Nature"}
    with pytest.raises(DataError, match=r"request 0.*'Nature' is no label.*nature.*0 to 2: places, people, nature"):
        apply_grace_to_model(model, tokenizer, [request], place.hparams())
    assert not GraceEditor.all_of(model)


def test_a_classifier_reads_a_long_text_as_far_as_it_can() -> None:
    place = ARCHITECTURES["bert-last"]
    model, tokenizer = place.build()
    text = " ".join(["the old king"] * 30)
    pair = encoder_for(model, tokenizer)(text, "nature")
    assert len(pair.prompt) == 24
    assert pair.prompt[-1] == tokenizer.eos_token_id
    request = {"prompt": text, "target_new": "nature"}
    apply_grace_to_model(model, tokenizer, [request], place.hparams(replacement="replace_prompt"))
    assert LABELS[int(logits_of(model, tokenizer, [(text, "nature")]).argmax())] == "nature"


def test_what_makes_no_sense_is_refused() -> None:
    decoder = ARCHITECTURES["t5-decoder"]
    model, tokenizer = decoder.build()
    with pytest.raises(ModelError, match="start token of T5ForConditionalGeneration's decoder"):
        apply_grace_to_model(model, tokenizer, decoder.requests, decoder.hparams(replacement="replace_prompt"))
    hparams = decoder.hparams()
    hparams.inner_params = ["lm_head"]
    with pytest.raises(ModelError, match="neither encoder nor decoder"):
        apply_grace_to_model(model, tokenizer, decoder.requests, hparams)
    llama = build_model("llama")
    hparams.inner_params, hparams.query_token = ["model.layers[2].mlp.down_proj"], "first"
    with pytest.raises(ModelError, match="query_token: the first token of a causal language model"):
        apply_grace_to_model(llama, build_tokenizer(), [{"prompt": "the old", "target_new": "king"}], hparams)
    for one in (model, llama):
        assert not [name for module in one.modules() for name in vars(module) if "easyedit" in name]


def test_which_edit_answers_is_explained(place: Architecture) -> None:
    model, tokenizer = place.build()
    apply_grace_to_model(model, tokenizer, place.requests, place.hparams(n_iter=2))
    for request in place.requests:
        (layer,) = explain(model, tokenizer, request["prompt"]).grace
        assert layer.answered_by == request["case_id"]
        (asked,) = [n for n, token in enumerate(layer.tokens) if token.looked_up]
        assert asked == (0 if place.query_token == "first" or "decoder" in place.layer else len(layer.tokens) - 1)
    prompt, answer = place.others[0]
    (layer,) = explain(model, tokenizer, prompt, answer).grace
    assert layer.answered_by is None
    assert not any(token.replaced for token in layer.tokens)
