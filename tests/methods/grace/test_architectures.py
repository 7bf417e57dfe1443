"""GRACE on small trained encoder-decoders and classifiers: edits are learned, other answers stay."""

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
from easyedit_lifelong.models.pair_encoders import encoder_for
from tests.support.architectures import ARCHITECTURES, LABELS, Architecture
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer, state_of

MODES = ("replace_last", "replace_all", "replace_prompt")
CASES = [
    (name, mode)
    for name in ARCHITECTURES
    for mode in MODES
    if not (name.endswith("decoder") and mode == "replace_prompt")  # is refused
]
_ENCODER_CASES = [case for case in CASES if case[0] == "t5-encoder"]
SELECTED_CASES = default_cases(CASES, *_ENCODER_CASES, ("bart-decoder", "replace_last"), ("bert-first", "replace_all"))
"""Without ``--full``, an encoder with all its modes, a decoder and a classifier."""

NOT_LEARNABLE = {
    ("bart-encoder", "replace_last"),
    ("bert-last", "replace_last"),
    ("bart-decoder", "replace_all"),
}
"""Where no value gives the targets in so small a model: it replaces one token of many, or all tokens of an answer."""


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """Each architecture and edited layer."""
    return ARCHITECTURES[request.param]


def logits_of(model: Any, tokenizer: Any, questions: list[tuple[str, str]], side: str = "right", extra: int = 0) -> Any:
    """Return the logits at the target tokens of all questions, which are one batch; ``extra`` adds padding."""
    pairs = [encoder_for(model, tokenizer)(*question) for question in questions]
    width = max(len(pair.prompt) for pair in pairs) + extra
    rows = [
        [0] * (width - len(pair.prompt)) + pair.prompt
        if side == "left"
        else pair.prompt + [0] * (width - len(pair.prompt))
        for pair in pairs
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


def edited_questions(architecture: Architecture) -> list[tuple[str, str]]:
    return [(request["prompt"], request["target_new"]) for request in architecture.requests]


@pytest.mark.parametrize(("name", "mode"), SELECTED_CASES)
def test_edits_are_learned_and_other_questions_keep_their_logits(name: str, mode: str) -> None:
    architecture = ARCHITECTURES[name]
    model, tokenizer = architecture.build()
    scorer, others = scorer_for(model, tokenizer), architecture.others
    assert all(answer.exact for answer in scorer.forced(model, others)), (
        "the model does not know the answers that it was trained on"
    )
    before = [logits_of(model, tokenizer, [question]) for question in others]
    _, rollback = apply_grace_to_model(model, tokenizer, architecture.requests, architecture.hparams(replacement=mode))
    learned = [result.learned for result in rollback.results]
    assert all(learned) or (name, mode) in NOT_LEARNABLE
    assert [answer.exact for answer in scorer.forced(model, edited_questions(architecture))] == learned
    if scorer.generates_text:
        prompts, targets = zip(*edited_questions(architecture), strict=True)
        texts = scorer.generate(model, prompts, 8)
        assert [text == target for text, target in zip(texts, targets, strict=True)] == learned
    for question, unedited in zip(others, before, strict=True):
        assert torch.equal(logits_of(model, tokenizer, [question]), unedited)


@pytest.mark.parametrize(("name", "mode"), SELECTED_CASES)
def test_logits_do_not_depend_on_batch_and_padding(name: str, mode: str) -> None:
    architecture = ARCHITECTURES[name]
    model, tokenizer = architecture.build()
    apply_grace_to_model(model, tokenizer, architecture.requests, architecture.hparams(replacement=mode, n_iter=5))
    questions = [*edited_questions(architecture), *architecture.others[:6]]
    single_logits = torch.cat([logits_of(model, tokenizer, [question]) for question in questions])
    torch.testing.assert_close(logits_of(model, tokenizer, questions), single_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_of(model, tokenizer, questions, extra=3), single_logits, rtol=1e-4, atol=1e-4)
    if architecture.kind == "t5":  # only T5 has relative positions, which allow padding on the left
        torch.testing.assert_close(
            logits_of(model, tokenizer, questions, "left", 2), single_logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    "name", default_cases([name for name in ARCHITECTURES if not name.startswith("bert")], "t5-decoder", "bart-encoder")
)
@pytest.mark.parametrize("mode", ["replace_last", "replace_all"])
def test_generated_texts_do_not_depend_on_batch_cache_and_beams(name: str, mode: str) -> None:
    architecture = ARCHITECTURES[name]
    model, tokenizer = architecture.build()
    apply_grace_to_model(model, tokenizer, architecture.requests, architecture.hparams(replacement=mode))
    prompts = [prompt for prompt, _ in [*edited_questions(architecture), *architecture.others[:4]]]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    generate_options = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "max_new_tokens": 6}
    texts = [
        tokenizer.batch_decode(model.generate(**generate_options, **options), skip_special_tokens=True)
        for options in ({}, {"use_cache": False}, {"num_beams": 3})
    ]
    assert texts[0] == texts[1]
    if (name, mode) not in NOT_LEARNABLE:
        assert texts[2][:4] == texts[0][:4] == [target for _, target in edited_questions(architecture)]
    for prompt, text in zip(prompts, texts[0], strict=True):
        single_inputs = tokenizer(prompt, return_tensors="pt")
        single_output = model.generate(
            input_ids=single_inputs["input_ids"], attention_mask=single_inputs["attention_mask"], max_new_tokens=6
        )
        assert tokenizer.decode(single_output[0], skip_special_tokens=True) == text


def test_rollback_restores_logits_state_and_attributes(architecture: Architecture) -> None:
    model, tokenizer = architecture.build()
    state, logits = state_of(model), logits_of(model, tokenizer, edited_questions(architecture))
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    _, rollback = apply_grace_to_model(model, tokenizer, architecture.requests, architecture.hparams(n_iter=3))
    assert not torch.equal(logits_of(model, tokenizer, edited_questions(architecture)), logits)
    rollback()
    assert torch.equal(logits_of(model, tokenizer, edited_questions(architecture)), logits)
    after = model.state_dict()
    assert set(after) == set(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes


def test_edits_of_a_copy_do_not_change_the_original(architecture: Architecture) -> None:
    model, tokenizer = architecture.build()
    logits = logits_of(model, tokenizer, edited_questions(architecture))
    edited, rollback = apply_grace_to_model(
        model, tokenizer, architecture.requests, architecture.hparams(n_iter=3), copy=True
    )
    assert torch.equal(logits_of(model, tokenizer, edited_questions(architecture)), logits)
    edited_logits = logits_of(edited, tokenizer, edited_questions(architecture))
    second_copy = copy.deepcopy(edited)
    rollback()
    assert torch.equal(logits_of(edited, tokenizer, edited_questions(architecture)), logits)
    assert torch.equal(logits_of(second_copy, tokenizer, edited_questions(architecture)), edited_logits)


def test_partial_passes_train_the_same_values_as_full_passes(architecture: Architecture) -> None:
    values = []
    for partial in (True, False):
        model, tokenizer = architecture.build()
        hparams = architecture.hparams(n_iter=10, reg=None, edit_lr=0.1)
        editor = GraceEditor.on(model, tokenizer, hparams)
        if not partial:
            editor._passes.replay_support = (False, 0)
        apply_grace_to_model(model, tokenizer, architecture.requests, hparams)
        assert editor.replay_support[0] is partial
        assert editor.codebook is not None
        values.append(editor.codebook.values)
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-3)


def test_edits_after_loading_equal_edits_without_saving(architecture: Architecture, tmp_path: Path) -> None:
    model, tokenizer = architecture.build()
    apply_grace_to_model(model, tokenizer, architecture.requests[:2], architecture.hparams(n_iter=5))
    save_edits(model, tmp_path)
    apply_grace_to_model(model, tokenizer, architecture.requests[2:], architecture.hparams(n_iter=5))
    loaded_model, tokenizer = architecture.build()
    load_edits(loaded_model, tmp_path)
    apply_grace_to_model(loaded_model, tokenizer, architecture.requests[2:], architecture.hparams(n_iter=5))
    questions = edited_questions(architecture)
    assert torch.equal(logits_of(loaded_model, tokenizer, questions), logits_of(model, tokenizer, questions))


def test_edits_of_encoder_and_decoder_roll_back_in_either_order() -> None:
    encoder, decoder = ARCHITECTURES["t5-encoder"], ARCHITECTURES["t5-decoder"]
    for encoder_first in (True, False):
        model, tokenizer = encoder.build()
        attributes = {path: set(vars(module)) for path, module in model.named_modules()}
        unedited = logits_of(model, tokenizer, edited_questions(encoder))
        _, undo_encoder_edits = apply_grace_to_model(model, tokenizer, encoder.requests[:2], encoder.hparams())
        _, undo_decoder_edits = apply_grace_to_model(model, tokenizer, decoder.requests[2:], decoder.hparams())
        assert all(answer.exact for answer in scorer_for(model, tokenizer).forced(model, edited_questions(encoder)))
        rollbacks = [undo_encoder_edits, undo_decoder_edits]
        for rollback in rollbacks if encoder_first else reversed(rollbacks):
            rollback()
        assert torch.equal(logits_of(model, tokenizer, edited_questions(encoder)), unedited)
        assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes


def test_a_classifiers_target_is_the_name_or_the_number_of_a_label() -> None:
    architecture = ARCHITECTURES["bert-first"]
    model, tokenizer = architecture.build()
    encode = encoder_for(model, tokenizer)
    assert encode("the old king", "nature").target == encode("the old king", "2").target == [2]
    request = {"prompt": "the old king", "target_new": "Nature"}
    with pytest.raises(DataError, match=r"request 0.*'Nature' is no label.*nature.*0 to 2: places, people, nature"):
        apply_grace_to_model(model, tokenizer, [request], architecture.hparams())
    assert not GraceEditor.all_of(model)


def test_a_classifiers_long_text_is_truncated_to_its_context() -> None:
    architecture = ARCHITECTURES["bert-last"]
    model, tokenizer = architecture.build()
    text = " ".join(["the old king"] * 30)
    pair = encoder_for(model, tokenizer)(text, "nature")
    assert len(pair.prompt) == 24
    assert pair.prompt[-1] == tokenizer.eos_token_id
    request = {"prompt": text, "target_new": "nature"}
    apply_grace_to_model(model, tokenizer, [request], architecture.hparams(replacement="replace_prompt"))
    assert LABELS[int(logits_of(model, tokenizer, [(text, "nature")]).argmax())] == "nature"


def test_options_that_do_not_fit_the_architecture_are_refused() -> None:
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
    for refused_model in (model, llama):
        assert not [name for module in refused_model.modules() for name in vars(module) if "easyedit" in name]


def test_explain_names_the_edit_that_answers_and_the_query_token(architecture: Architecture) -> None:
    model, tokenizer = architecture.build()
    apply_grace_to_model(model, tokenizer, architecture.requests, architecture.hparams(n_iter=2))
    for request in architecture.requests:
        (layer,) = explain(model, tokenizer, request["prompt"]).grace
        assert layer.answered_by == request["case_id"]
        (query_token,) = [n for n, token in enumerate(layer.tokens) if token.looked_up]
        assert query_token == (
            0 if architecture.query_token == "first" or "decoder" in architecture.layer else len(layer.tokens) - 1
        )
    prompt, answer = architecture.others[0]
    (layer,) = explain(model, tokenizer, prompt, answer).grace
    assert layer.answered_by is None
    assert not any(token.replaced for token in layer.tokens)
