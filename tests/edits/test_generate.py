"""``generate`` with every option: an edited model gives the answer that it gives to the prompt alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache, TextIteratorStreamer, TextStreamer, pipeline

from easyedit_lifelong.errors import EditError
from tests.support.coachhook_edits import OTHERS
from tests.support.edited_models import EDITS, PROMPTS, answers, inputs_of, plan, remove_all_edits
from tests.support.tiny_models import build_model, build_tokenizer

ALL_PROMPTS = [*PROMPTS, *OTHERS]


@pytest.fixture(scope="module", params=EDITS)
def edited(request: pytest.FixtureRequest) -> Any:
    """An edited model whose answer to at least one prompt has changed."""
    model = build_model("llama")
    model.generation_config.eos_token_id = None  # every answer has its full length
    before = answers(model)
    EDITS[request.param](model, "llama")
    assert answers(model) != before
    return model


@pytest.fixture(scope="module")
def expected(edited: Any) -> list[list[int]]:
    """The edited model's answers, found without ``generate``: one full forward pass per token."""
    sequences = []
    for prompt in ALL_PROMPTS:
        ids = inputs_of(prompt)["input_ids"]
        length = ids.shape[1]
        for _ in range(6):
            # The labels mark where the prompt ends: generated tokens aren't part of it.
            labels = torch.cat([torch.full((1, length), -100), ids[:, length:]], dim=1)
            with torch.no_grad():
                following = edited(ids, labels=labels).logits[:, -1:].argmax(dim=-1)
            ids = torch.cat([ids, following], dim=1)
        sequences.append(ids[0, length:].tolist())
    return sequences


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
        {"num_beams": 1, "num_return_sequences": 1},
    ],
    ids=str,
)
def test_greedy_generation_gives_the_expected_answers(
    edited: Any, expected: list[list[int]], options: dict[str, Any]
) -> None:
    assert answers(edited, **options) == expected


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_padded_batch_gives_the_answers_of_single_prompts(
    edited: Any, expected: list[list[int]], side: str, use_cache: bool
) -> None:
    """Padded on the right, a model continues after the padding; only rows without padding can be compared."""
    inputs = inputs_of(*ALL_PROMPTS, side=side)
    output = edited.generate(**inputs, generation_config=plan(use_cache=use_cache))
    outputs = output[:, inputs["input_ids"].shape[1] :].tolist()
    if side == "left":
        assert outputs == expected
        return
    unpadded = [i for i, row in enumerate(inputs["attention_mask"]) if row.all()]
    assert [outputs[i] for i in unpadded] == [expected[i] for i in unpadded]


def test_samples_are_the_same_with_and_without_a_cache(edited: Any) -> None:
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        config = plan(do_sample=True, temperature=0.7, num_return_sequences=3, use_cache=use_cache)
        outputs.append(edited.generate(**inputs_of(*PROMPTS), generation_config=config))
    assert torch.equal(*outputs)
    assert len(outputs[0]) == 12


def test_beam_search_is_the_same_without_a_cache_and_for_a_single_prompt(edited: Any) -> None:
    outputs = [
        edited.generate(
            **inputs_of(*PROMPTS), generation_config=plan(num_beams=3, num_return_sequences=2, use_cache=use_cache)
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(*outputs)
    single = edited.generate(**inputs_of(PROMPTS[0]), generation_config=plan(num_beams=3, num_return_sequences=2))
    width = min(single.shape[1], outputs[0].shape[1] - 1)
    padding = inputs_of(*PROMPTS)["attention_mask"][0].eq(0).sum()
    assert torch.equal(outputs[0][:2, padding:][:, :width], single[:, :width])


def test_generation_from_embeddings_gives_the_expected_answers(edited: Any, expected: list[list[int]]) -> None:
    for prompt, answer in zip(ALL_PROMPTS, expected, strict=True):
        inputs = inputs_of(prompt)
        embedded = edited.get_input_embeddings()(inputs["input_ids"])
        config = plan()
        output = edited.generate(
            inputs_embeds=embedded, attention_mask=inputs["attention_mask"], generation_config=config
        )
        assert output[0].tolist() == answer


@pytest.mark.parametrize("assistant", ["unedited", "itself", "early exit"])
def test_assisted_generation_gives_the_answers_of_the_edited_model(
    edited: Any, expected: list[list[int]], assistant: str
) -> None:
    """The assistant drafts tokens; the edited model accepts or rejects them."""
    drafting = {"unedited": build_model("llama"), "itself": edited, "early exit": None}[assistant]
    early = {"assistant_early_exit": 2} if assistant == "early exit" else {}
    for prompt, answer in zip(ALL_PROMPTS, expected, strict=True):
        inputs = inputs_of(prompt)
        config = plan(**early)
        output = edited.generate(**inputs, assistant_model=drafting, generation_config=config)
        assert output[0, inputs["input_ids"].shape[1] :].tolist() == answer


@pytest.mark.parametrize("new_cache", [DynamicCache, lambda config: StaticCache(config=config, max_cache_len=32)])
def test_a_cache_of_the_start_of_the_prompt_changes_no_answer(
    edited: Any, expected: list[list[int]], new_cache: Callable[..., Any]
) -> None:
    """The edited model filled the cache with the first half of the prompt."""
    for prompt, answer in zip(PROMPTS, expected, strict=False):
        ids = inputs_of(prompt)["input_ids"]
        cache = new_cache(config=edited.config)
        with torch.no_grad():
            edited(ids[:, : ids.shape[1] // 2], past_key_values=cache)
        output = edited.generate(ids, past_key_values=cache, generation_config=plan())
        assert output[0, ids.shape[1] :].tolist() == answer


def test_a_conversation_with_one_cache_gives_the_answers_without_it(edited: Any) -> None:
    cache, history, without_cache = DynamicCache(config=edited.config), torch.empty(1, 0, dtype=torch.long), []
    for prompt in (PROMPTS[0], PROMPTS[2]):
        history = torch.cat([history, inputs_of(prompt)["input_ids"]], dim=1)
        without_cache.append(edited.generate(history, generation_config=plan(4)))
        history = edited.generate(history, past_key_values=cache, generation_config=plan(4))
        assert torch.equal(history, without_cache[-1])


def test_a_cache_of_another_prompt_is_refused(edited: Any) -> None:
    cache = DynamicCache(config=edited.config)
    with torch.no_grad():
        edited(inputs_of(PROMPTS[1])["input_ids"], past_key_values=cache)
    with pytest.raises(EditError, match="all tokens of the prompts"):
        edited.generate(inputs_of("blue sea")["input_ids"], past_key_values=cache, generation_config=plan())
    embedded = edited.get_input_embeddings()(inputs_of(*PROMPTS[:1])["input_ids"])
    with pytest.raises(EditError, match="all tokens of the prompts"):
        edited.generate(inputs_embeds=embedded.repeat(1, 2, 1), past_key_values=cache, generation_config=plan())


@pytest.mark.parametrize("size", [None, 4])
def test_a_pipeline_gives_the_answers_of_generate(edited: Any, size: int | None) -> None:
    tokenizer = build_tokenizer()
    expected_texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers(edited)]
    pipe = pipeline("text-generation", model=edited, tokenizer=tokenizer)
    outputs = pipe(ALL_PROMPTS, generation_config=plan(), return_full_text=False, batch_size=size or 1)
    for (output,), text in zip(outputs, expected_texts, strict=True):
        assert output["generated_text"].split() == text.split()


def test_streamers_receive_the_answer(edited: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer()
    answer = tokenizer.decode(answers(edited, PROMPTS[:1])[0])
    inputs = inputs_of(PROMPTS[0])
    edited.generate(**inputs, generation_config=plan(), streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.split() == answer.split()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(
        target=edited.generate, kwargs={**inputs, "generation_config": plan(), "streamer": streamer}
    )
    thread.start()
    streamed = "".join(streamer)
    thread.join()
    assert streamed.split() == answer.split()


def test_continuous_batching_is_refused(edited: Any) -> None:
    """Its passes join prompts in one row. Within ``generate``, they would wait for its end, in another thread."""
    inputs = inputs_of(PROMPTS[0])
    with pytest.raises(EditError, match="easyedit-lifelong serve"):
        edited.generate_batch(inputs["input_ids"].tolist(), generation_config=plan(), progress_bar=False)
    with pytest.raises(EditError, match="easyedit-lifelong serve"):
        edited.generate(inputs["input_ids"], generation_config=plan(), cache_implementation="paged")
    model = build_model("llama")
    before = set(vars(model))
    EDITS["GRACE"](model, "llama")
    remove_all_edits(model)
    assert set(vars(model)) == before
