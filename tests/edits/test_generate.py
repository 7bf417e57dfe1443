"""Every way in which ``generate`` can be asked: the edited model says what it says to the prompt alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache, TextIteratorStreamer, TextStreamer, pipeline

from easyedit_lifelong.errors import EditError
from tests.support.coachhook_edits import OTHERS
from tests.support.edited_models import EDITS, PROMPTS, answers, inputs_of, plan
from tests.support.tiny_models import build_model, build_tokenizer

ALL = [*PROMPTS, *OTHERS]


@pytest.fixture(scope="module", params=EDITS)
def edited(request: pytest.FixtureRequest) -> Any:
    """An edited model that says something else than before to some prompt."""
    model = build_model("llama")
    model.generation_config.eos_token_id = None  # every answer has its full length
    before = answers(model)
    EDITS[request.param](model, "llama")
    assert answers(model) != before
    return model


@pytest.fixture(scope="module")
def expected(edited: Any) -> list[list[int]]:
    """What it says, found without generate: token by token, each time reading everything anew."""
    said = []
    for prompt in ALL:
        ids = inputs_of(prompt)["input_ids"]
        length = ids.shape[1]
        for _ in range(6):
            # What comes behind the prompt is no prompt.
            labels = torch.cat([torch.full((1, length), -100), ids[:, length:]], dim=1)
            with torch.no_grad():
                following = edited(ids, labels=labels).logits[:, -1:].argmax(dim=-1)
            ids = torch.cat([ids, following], dim=1)
        said.append(ids[0, length:].tolist())
    return said


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
def test_greedily(edited: Any, expected: list[list[int]], options: dict[str, Any]) -> None:
    assert answers(edited, **options) == expected


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_in_batches(edited: Any, expected: list[list[int]], side: str, use_cache: bool) -> None:
    """Padded on the right, a model goes on behind the padding; what it says first is still its answer."""
    inputs = inputs_of(*ALL, side=side)
    output = edited.generate(**inputs, generation_config=plan(use_cache=use_cache))
    said = output[:, inputs["input_ids"].shape[1] :].tolist()
    if side == "left":
        assert said == expected
        return
    longest = [i for i, row in enumerate(inputs["attention_mask"]) if row.all()]
    assert [said[i] for i in longest] == [expected[i] for i in longest]


def test_samples_are_the_same_alone_and_in_a_batch_with_and_without_a_cache(edited: Any) -> None:
    said = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        config = plan(do_sample=True, temperature=0.7, num_return_sequences=3, use_cache=use_cache)
        said.append(edited.generate(**inputs_of(*PROMPTS), generation_config=config))
    assert torch.equal(*said)
    assert len(said[0]) == 12


def test_beams(edited: Any) -> None:
    said = [
        edited.generate(
            **inputs_of(*PROMPTS), generation_config=plan(num_beams=3, num_return_sequences=2, use_cache=use_cache)
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(*said)
    alone = edited.generate(**inputs_of(PROMPTS[0]), generation_config=plan(num_beams=3, num_return_sequences=2))
    width = min(alone.shape[1], said[0].shape[1] - 1)
    padding = inputs_of(*PROMPTS)["attention_mask"][0].eq(0).sum()
    assert torch.equal(said[0][:2, padding:][:, :width], alone[:, :width])


def test_from_embeddings(edited: Any, expected: list[list[int]]) -> None:
    for prompt, wanted in zip(ALL, expected, strict=True):
        inputs = inputs_of(prompt)
        embedded = edited.get_input_embeddings()(inputs["input_ids"])
        config = plan()
        output = edited.generate(
            inputs_embeds=embedded, attention_mask=inputs["attention_mask"], generation_config=config
        )
        assert output[0].tolist() == wanted


@pytest.mark.parametrize("assistant", ["unedited", "itself", "early exit"])
def test_with_an_assistant(edited: Any, expected: list[list[int]], assistant: str) -> None:
    """Whoever drafts, the edited model decides."""
    drafting = {"unedited": build_model("llama"), "itself": edited, "early exit": None}[assistant]
    early = {"assistant_early_exit": 2} if assistant == "early exit" else {}
    for prompt, wanted in zip(ALL, expected, strict=True):
        inputs = inputs_of(prompt)
        config = plan(**early)
        output = edited.generate(**inputs, assistant_model=drafting, generation_config=config)
        assert output[0, inputs["input_ids"].shape[1] :].tolist() == wanted


@pytest.mark.parametrize("new", [DynamicCache, lambda config: StaticCache(config=config, max_cache_len=32)])
def test_a_cache_to_continue_changes_nothing(edited: Any, expected: list[list[int]], new: Callable[..., Any]) -> None:
    """Neither what the edited model cached of the prompt's beginning, nor what it said there before."""
    for prompt, wanted in zip(PROMPTS, expected, strict=False):
        ids = inputs_of(prompt)["input_ids"]
        cache = new(config=edited.config)
        with torch.no_grad():
            edited(ids[:, : ids.shape[1] // 2], past_key_values=cache)
        output = edited.generate(ids, past_key_values=cache, generation_config=plan())
        assert output[0, ids.shape[1] :].tolist() == wanted


def test_a_conversation_with_one_cache(edited: Any) -> None:
    cache, history, apart = DynamicCache(config=edited.config), torch.empty(1, 0, dtype=torch.long), []
    for prompt in (PROMPTS[0], PROMPTS[2]):
        history = torch.cat([history, inputs_of(prompt)["input_ids"]], dim=1)
        apart.append(edited.generate(history, generation_config=plan(4)))
        history = edited.generate(history, past_key_values=cache, generation_config=plan(4))
        assert torch.equal(history, apart[-1])


def test_a_cache_that_the_prompt_is_not_part_of_is_refused(edited: Any) -> None:
    cache = DynamicCache(config=edited.config)
    with torch.no_grad():
        edited(inputs_of(PROMPTS[1])["input_ids"], past_key_values=cache)
    with pytest.raises(EditError, match="all tokens of the prompts"):
        edited.generate(inputs_of("blue sea")["input_ids"], past_key_values=cache, generation_config=plan())
    embedded = edited.get_input_embeddings()(inputs_of(*PROMPTS[:1])["input_ids"])
    with pytest.raises(EditError, match="all tokens of the prompts"):
        edited.generate(inputs_embeds=embedded.repeat(1, 2, 1), past_key_values=cache, generation_config=plan())


@pytest.mark.parametrize("size", [None, 4])
def test_a_pipeline(edited: Any, size: int | None) -> None:
    tokenizer = build_tokenizer()
    wanted = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers(edited)]
    pipe = pipeline("text-generation", model=edited, tokenizer=tokenizer)
    said = pipe(ALL, generation_config=plan(), return_full_text=False, batch_size=size or 1)
    for (one,), text in zip(said, wanted, strict=True):
        assert one["generated_text"].split() == text.split()


def test_streams(edited: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer()
    wanted = tokenizer.decode(answers(edited, PROMPTS[:1])[0])
    inputs = inputs_of(PROMPTS[0])
    edited.generate(**inputs, generation_config=plan(), streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.split() == wanted.split()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(
        target=edited.generate, kwargs={**inputs, "generation_config": plan(), "streamer": streamer}
    )
    thread.start()
    said = "".join(streamer)
    thread.join()
    assert said.split() == wanted.split()
