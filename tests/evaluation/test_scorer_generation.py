"""Generated answers do not depend on the batch, its padding or the model's generation settings."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.single_questions import PROMPTS, TOKENS_PER_BATCH, generate_alone
from tests.support.tiny_models import FAMILIES, WORDS, build_model, build_tokenizer


@pytest.mark.parametrize("tokens_per_batch", TOKENS_PER_BATCH)
def test_batched_generation_equals_generation_of_single_prompts(
    family: str, tokenizer: Any, tokens_per_batch: int
) -> None:
    model, limits = build_model(family), [3, 9, 1, 5, 7, 4]
    expected = [generate_alone(model, tokenizer, prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    assert Scorer(tokenizer, tokens_per_batch).generate(model, PROMPTS, limits) == expected
    assert len(set(expected)) > 1


def _without_padding_token() -> Any:
    """Return a tokenizer without a padding token, as GPT-2's and Llama's; its token 0 is a word."""
    plain = Tokenizer(models.WordLevel(build_tokenizer().get_vocab(), unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("pad", ["<pad>", "</s>", None])
def test_tokens_after_the_end_of_text_are_not_part_of_the_answer(llama: Any, pad: str | None) -> None:
    """Rows that end early are padded in a batch, and padding is no part of the answer, whatever token it is."""
    tokenizer = _without_padding_token()
    assert tokenizer.pad_token is None
    tokenizer.pad_token = pad
    expected = [generate_alone(llama, tokenizer, prompt, 8) for prompt in PROMPTS]
    lengths = {len(text.split()) for text in expected}
    assert len(lengths) > 1, "all answers have the same length"
    assert Scorer(tokenizer, 10_000).generate(llama, PROMPTS, 8) == expected


def test_any_of_several_end_of_text_tokens_ends_the_generation(tokenizer: Any) -> None:
    model = build_model("gpt2")
    (unstopped,) = Scorer(tokenizer).generate(model, [PROMPTS[0]], 4)
    words = unstopped.split()
    assert len(words) == 4, "the answer ends before its limit"
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(words[-1])]
    (ended,) = Scorer(tokenizer).generate(model, [PROMPTS[0]], 4)
    until_the_end = words[: words.index(words[-1]) + 1]  # the end token itself may or may not be part of the answer
    assert ended.split() in (until_the_end, until_the_end[:-1])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_long_prompt_and_a_long_answer_in_one_batch_fit_the_context(name: str, tokenizer: Any) -> None:
    """Each fits into the context of 64 alone; the long prompt with room for the long answer would not."""
    model = build_model(name)
    prompts, limits = [" ".join(["sea"] * 60), "moon"], [3, 40]
    expected = [generate_alone(model, tokenizer, prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    assert Scorer(tokenizer, 10_000).generate(model, prompts, limits) == expected


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_generation_stops_at_the_end_of_the_context(name: str, tokenizer: Any) -> None:
    """A prompt of 62 tokens leaves room for an answer of 2; a higher limit must not raise an error."""
    model = build_model(name)
    prompt = " ".join((WORDS * 3)[:62])
    expected = generate_alone(model, tokenizer, prompt, 2)
    (answer,) = Scorer(tokenizer).generate(model, [prompt], 6)
    assert answer.startswith(expected)


@pytest.mark.parametrize("tokens_per_batch", TOKENS_PER_BATCH)
@pytest.mark.parametrize("pad", ["<pad>", None])
def test_each_row_ends_where_the_stopping_function_ends_it(llama: Any, tokens_per_batch: int, pad: str | None) -> None:
    """The other rows of the batch continue, and the padding of an ended row is no part of its answer."""
    tokenizer = _without_padding_token()
    tokenizer.pad_token = pad
    words = [2, 5, 1, 8, 3, 4]
    full = [generate_alone(llama, tokenizer, prompt, 6).split() for prompt in PROMPTS]
    expected = [" ".join(text[:n]) for text, n in zip(full, words, strict=True)]
    received: list[tuple[int, str]] = []

    def ended(index: int, text: str) -> bool:
        received.append((index, text))
        return len(text.split()) >= words[index]

    assert Scorer(tokenizer, tokens_per_batch).generate(llama, PROMPTS, 6, ended) == expected
    assert len({len(text.split()) for text in expected}) > 2
    assert all(full[index][: len(text.split())] == text.split() for index, text in received)


SETTINGS: dict[str, Any] = {
    "repetition_penalty": 9.0,
    "num_beams": 3,
    "suppress_tokens": list(range(3, 40)),
    "no_repeat_ngram_size": 1,
}


def generate_with_own_settings(model: Any, tokenizer: Any, prompt: str) -> str:
    """Return what ``generate`` gives with the settings of the model."""
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("names", [*([name] for name in SETTINGS), list(SETTINGS)], ids="+".join)
def test_a_checkpoints_generation_settings_do_not_change_the_output(
    llama: Any, tokenizer: Any, names: list[str]
) -> None:
    greedy = [generate_alone(llama, tokenizer, prompt, 8) for prompt in PROMPTS]
    config = llama.generation_config
    for name in names:
        setattr(config, name, SETTINGS[name])
    settings_before = config.to_dict()
    assert [generate_with_own_settings(llama, tokenizer, prompt) for prompt in PROMPTS] != greedy, (
        "the settings change no answer"
    )
    assert Scorer(tokenizer).generate(llama, PROMPTS, 8) == greedy
    assert llama.generation_config is config
    assert config.to_dict() == settings_before


def test_a_checkpoints_generation_settings_are_restored_after_an_exception(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = llama.generation_config
    config.repetition_penalty = 9.0
    configs: list[Any] = []

    def interrupt(*_: Any, **__: Any) -> None:
        configs.append(llama.generation_config)
        raise KeyboardInterrupt

    monkeypatch.setattr(llama, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Scorer(tokenizer).generate(llama, PROMPTS, 8)
    assert configs and configs[0] is not config
    assert llama.generation_config is config
    assert config.repetition_penalty == 9.0
