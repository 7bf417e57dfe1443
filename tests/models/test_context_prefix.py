"""Texts in front of prompts: a model answers as the base model does to text and prompt in one row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig
from transformers.models.llama import LlamaConfig

from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.models.context_attachment import ContextAttachment, inner_model
from easyedit_lifelong.models.context_prefix import check_layers
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support.tiny_models import FAMILIES, build_model

BEGINNING = 1
"""The beginning-of-text token."""

END = 2
"""The end-of-text token."""

CONTEXTS = {10: [20, 21, 22, 23, 24, 25, 26], 11: [30, 31, 32]}
"""The text in front of a prompt, by the prompt's last token. Other prompts get none."""

ROWS = [[5, 6, 7, 10], [8, 10], [5, 6, 12], [9, 8, 7, 6, 5, 11]]
FAMILIES_WITHOUT_WINDOW = ["llama", "gpt2", "gptj", "qwen2"]
CLOSE = {"rtol": 0.0, "atol": 2e-5}


def contexts_of(prompts: Sequence[list[int]]) -> list[list[int] | None]:
    """Choose a text for each prompt."""
    return [CONTEXTS.get(prompt[-1]) for prompt in prompts]


def contexts_with_beginning(prompts: Sequence[list[int]]) -> list[list[int] | None]:
    """Choose a text that begins with the beginning-of-text token."""
    return [None if context is None else [BEGINNING, *context] for context in contexts_of(prompts)]


Attach = Callable[..., Any]


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Build a family's model, with texts in front of its prompts."""
    attachments: list[ContextAttachment] = []

    def build(family: str, contexts: Any = contexts_of, beginning: int | None = None) -> Any:
        model = build_model(family)
        attachments.append(ContextAttachment(model, contexts, lambda: beginning))
        return model

    yield build
    for attachment in attachments:
        attachment.detach()


def text_in_front(row: list[int]) -> list[int]:
    """Return the tokens of the text and the row."""
    return [*(CONTEXTS.get(row[-1]) or []), *row]


def logits_of(model: Any, row: list[int], count: int) -> torch.Tensor:
    """Return a model's logits at the last ``count`` tokens of one row."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([row], device=model.device)).logits[0, -count:]
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_text_and_prompt_in_one_row(family: str, attach: Attach) -> None:
    model, base = attach(family), build_model(family)
    for row in ROWS:
        expected = logits_of(base, text_in_front(row), len(row))
        torch.testing.assert_close(logits_of(model, row, len(row)), expected, **CLOSE)
    assert torch.equal(logits_of(model, ROWS[2], 3), logits_of(base, ROWS[2], 3)), "no text: no change of any bit"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES_WITHOUT_WINDOW)
def test_rows_of_a_padded_batch_get_their_own_texts(family: str, side: Any, attach: Attach) -> None:
    model, base = attach(family), build_model(family)
    ids, mask = pad_rows(ROWS, 0, side, model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    for row, real, of_row in zip(ROWS, mask.bool(), logits, strict=True):
        torch.testing.assert_close(of_row[real], logits_of(base, text_in_front(row), len(row)), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES_WITHOUT_WINDOW)
def test_padding_does_not_stand_between_text_and_row_if_the_caller_gives_no_positions(
    family: str, attach: Attach
) -> None:
    model, base = attach(family), build_model(family)
    ids, mask = pad_rows(ROWS, 0, "left", model.device)
    with torch.no_grad():
        logits, of_base = (each(input_ids=ids, attention_mask=mask).logits for each in (model, base))
    for number, (row, real) in enumerate(zip(ROWS, mask.bool(), strict=True)):
        has_text = row[-1] in CONTEXTS
        expected = logits_of(base, text_in_front(row), len(row)) if has_text else of_base[number][real]
        torch.testing.assert_close(logits[number][real], expected, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES_WITHOUT_WINDOW)
def test_the_prompt_of_a_teacher_forced_row_chooses_the_text(family: str, attach: Attach) -> None:
    model, base, answer = attach(family), build_model(family), [12, 13]
    rows = [row + answer for row in ROWS]
    ids, mask = pad_rows(rows, 0, "right", model.device)
    with prompt_lengths(model, [len(row) for row in ROWS]), torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    labels = ids.masked_fill(~mask.bool(), -100)
    for number, row in enumerate(ROWS):
        expected = logits_of(base, text_in_front(row) + answer, len(row) + 2)
        torch.testing.assert_close(logits[number, : len(row) + 2], expected, **CLOSE)
        labels[number, : len(row)] = -100
        with torch.no_grad():
            whole = torch.tensor([text_in_front(row) + answer], device=model.device)
            wanted = whole.clone()
            wanted[0, :-2] = -100
            own = slice(number, number + 1)
            loss = model(input_ids=ids[own], attention_mask=mask[own], labels=labels[own]).loss
            torch.testing.assert_close(loss, base(input_ids=whole, labels=wanted).loss, rtol=1e-5, atol=1e-5)


def generated(model: Any, rows: list[list[int]], **options: Any) -> list[list[int]]:
    """Return five new tokens after each row."""
    ids, mask = pad_rows(rows, 0, "left", model.device)
    config = GenerationConfig(max_new_tokens=5, pad_token_id=0, **{"do_sample": False, **options})
    output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    rows = [row[ids.shape[1] :].tolist() for row in output]
    return [row[: row.index(END)] if END in row else row for row in rows]


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("family", FAMILIES_WITHOUT_WINDOW)
def test_generation_continues_text_and_prompt(family: str, options: dict[str, Any], attach: Attach) -> None:
    model, base = attach(family), build_model(family)
    expected = [generated(base, [text_in_front(row)], **options)[0] for row in ROWS]
    assert generated(model, ROWS, **options) == expected
    assert [generated(model, [row], **options)[0] for row in ROWS] == expected


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_sliding_window_counts_the_text(family: str, attach: Attach) -> None:
    model, base = attach(family), build_model(family)
    for row in ROWS:
        assert generated(model, [row]) == generated(base, [text_in_front(row)])
    with pytest.raises(EditError, match="sliding window of 4 tokens"):
        generated(model, ROWS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_beginning_token_stands_before_the_text_only(side: Any, attach: Attach) -> None:
    model, base = attach("llama", contexts_with_beginning, BEGINNING), build_model("llama")
    rows = [[BEGINNING, *row] for row in ROWS]
    ids, mask = pad_rows(rows, 0, side, model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    for row, real, of_row in zip(ROWS, mask.bool(), logits, strict=True):
        expected = logits_of(base, [BEGINNING, *text_in_front(row)], len(row))
        torch.testing.assert_close(of_row[real][1:], expected, **CLOSE)
    expected_tokens = [generated(base, [[BEGINNING, *text_in_front(row)]])[0] for row in ROWS]
    assert generated(model, rows) == expected_tokens


def test_hidden_states_and_the_returned_cache_are_those_of_the_callers_columns(attach: Attach) -> None:
    model, row = attach("llama"), ROWS[0]
    ids = torch.tensor([row], device=model.device)
    output = model(input_ids=ids, output_hidden_states=True, use_cache=True)
    assert output.hidden_states[-1].shape[1] == len(row)
    assert type(output.past_key_values) is DynamicCache
    assert output.past_key_values.get_seq_length() == len(row)
    assert model(input_ids=ids, use_cache=False).past_key_values is None
    given = DynamicCache()
    assert model(input_ids=ids, past_key_values=given, use_cache=True, return_dict=False)[1] is given


def test_gradients_flow_through_text_and_prompt(attach: Attach) -> None:
    model, base, row = attach("llama"), build_model("llama"), ROWS[0]
    gradients = []
    for which, tokens in ((model, row), (base, text_in_front(row))):
        which(input_ids=torch.tensor([tokens], device=which.device)).logits[0, -1, 3].backward()
        gradients.append(which.model.layers[1].mlp.down_proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_hooks_of_the_pass_see_its_own_columns_only(attach: Attach) -> None:
    model, row = attach("llama"), ROWS[0]
    seen: list[int] = []
    handle = model.model.layers[1].register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    logits_of(model, row, 1)
    handle.remove()
    assert seen == [len(row)]


# ------------------------------------------------------------------ what is refused


def test_passes_in_which_no_text_can_be_chosen_are_refused(attach: Attach) -> None:
    model = attach("llama")
    ids = torch.tensor([ROWS[0]], device=model.device)
    cache = model(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(EditError, match="leave past_key_values out"):
        model(input_ids=ids[:, -1:], past_key_values=cache)
    with pytest.raises(EditError, match="not inputs_embeds"):
        model(inputs_embeds=model.get_input_embeddings()(ids))
    with pytest.raises(EditError, match="cache_implementation='static'"):
        generated(model, [ROWS[0]], cache_implementation="static")
    with pytest.raises(EditError, match="prefill_chunk_size"):
        generated(model, [ROWS[0]], prefill_chunk_size=2)


def test_a_text_that_leaves_no_room_for_the_prompt_is_refused(attach: Attach) -> None:
    model = attach("llama", lambda prompts: [[7] * 62 for _ in prompts])
    with pytest.raises(EditError, match=r"a prompt has 66 tokens with the text .* context is 64"):
        logits_of(model, ROWS[0], 1)


def test_gradient_checkpointing_is_refused(attach: Attach) -> None:
    model = attach("llama").train()
    model.gradient_checkpointing_enable()
    with pytest.raises(EditError, match="gradient_checkpointing_disable"):
        model(input_ids=torch.tensor([ROWS[0]], device=model.device))


def test_models_without_a_head_or_with_other_states_are_refused() -> None:
    with pytest.raises(ModelError, match="not a causal language model with a head"):
        inner_model(build_model("llama").model)
    check_layers(LlamaConfig(num_hidden_layers=2))
    with pytest.raises(ModelError, match="LinearAttentionLayer"):
        check_layers(LlamaConfig(num_hidden_layers=2, layer_types=["full_attention", "linear_attention"]))


def test_copies_and_detaching(attach: Attach) -> None:
    model, base = build_model("llama"), build_model("llama")
    attachment = ContextAttachment(model, contexts_of, lambda: None)
    copied = copy.deepcopy(model)
    edited = logits_of(model, ROWS[0], 1)
    attachment.detach()
    assert vars(model).keys() == vars(base).keys()
    assert torch.equal(logits_of(model, ROWS[0], 1), logits_of(base, ROWS[0], 1))
    assert torch.equal(logits_of(copied, ROWS[0], 1), edited)
