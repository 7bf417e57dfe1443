"""Scores that neither the batch, nor its padding, nor the order changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from easyedit_lifelong.evaluation.answer_matching import starts_with_answer, starts_with_whole_answer
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer
from easyedit_lifelong.methods.grace.apply import apply_grace_to_model
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from tests.support.thoroughness import examples
from tests.support.tiny_models import FAMILIES, WORDS, build_model, build_tokenizer

QUESTIONS = [
    ("the capital of France is", "Paris"),
    ("who wrote Hamlet", "Shakespeare"),
    ("moon", "made from green cheese"),
    ("the river of London and the city of Rome where the old king plays piano", "far away"),
    ("language spoken in Peru", "Spanish and but not"),
    ("blue sea mountain snow", "summer winter bird song born when"),
]
PROMPTS = [prompt for prompt, _ in QUESTIONS]
BATCHINGS = [1, 16, 40, 10_000]

Row = tuple[tuple[int, ...], tuple[int, ...], float]


def naive_forced(model: Any, tokenizer: Any, prompt: str, answer: str) -> Row:
    """One question by itself: no batch, no padding, no mask; the likelihood in float64."""
    before, target = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before + target])).logits[0].double()
    chosen, nll = [], 0.0
    for step, token in enumerate(target):
        there = logits[len(before) - 1 + step]
        chosen.append(int(there.argmax()))
        nll -= float(there[token] - there.logsumexp(0))
    return tuple(chosen), tuple(target), nll / len(target)


def naive_generate(model: Any, tokenizer: Any, prompt: str, new_tokens: int) -> str:
    """One token after the other, the whole text through the model each time, until the end of text."""
    ids = tokenizer(prompt)["input_ids"]
    said: list[int] = []
    for _ in range(new_tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax())
        if token == 2:
            break
        said.append(token)
    return tokenizer.decode(said, skip_special_tokens=True)


def _rows(scores: list[ForcedAnswer]) -> list[Row]:
    return [(score.chosen, score.target, pytest.approx(score.nll, rel=1e-4, abs=1e-4)) for score in scores]


@pytest.mark.parametrize("tokens_per_batch", BATCHINGS)
def test_teacher_forced_scores_equal_those_of_single_questions(
    family: str, tokenizer: Any, tokens_per_batch: int
) -> None:
    model = build_model(family)
    expected = [naive_forced(model, tokenizer, *question) for question in QUESTIONS]
    assert expected == _rows(Scorer(tokenizer, tokens_per_batch).forced(model, QUESTIONS))
    assert len({row[0][0] for row in expected}) > 1, "a model that always says the same tests nothing"


@pytest.mark.parametrize("tokens_per_batch", BATCHINGS)
def test_batched_generation_equals_generation_of_single_prompts(
    family: str, tokenizer: Any, tokens_per_batch: int
) -> None:
    model, limits = build_model(family), [3, 9, 1, 5, 7, 4]
    expected = [naive_generate(model, tokenizer, *asked) for asked in zip(PROMPTS, limits, strict=True)]
    assert Scorer(tokenizer, tokens_per_batch).generate(model, PROMPTS, limits) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_scores_of_an_edited_model_do_not_depend_on_the_batch(name: str, tokenizer: Any) -> None:
    """The edit fires at each row's own last prompt token, in whatever company."""
    model = build_model(name)
    hparams = GraceHyperParams(model_name="m", inner_params=[FAMILIES[name][1]], n_iter=30, eps=0.1)
    requests = [{"prompt": prompt, "target_new": answer} for prompt, answer in QUESTIONS[:3]]
    before = Scorer(tokenizer).forced(model, QUESTIONS)
    model, rollback = apply_grace_to_model(model, tokenizer, requests, hparams)
    alone = [Scorer(tokenizer, 1).forced(model, [question])[0] for question in QUESTIONS]
    assert [s.nll for s in alone[:3]] != [pytest.approx(s.nll) for s in before[:3]], "the edits must do something"
    said = Scorer(tokenizer, 1).generate(model, PROMPTS, 5)
    for tokens_per_batch in BATCHINGS[1:]:
        scorer = Scorer(tokenizer, tokens_per_batch)
        assert [(s.chosen, s.target, s.nll) for s in alone] == _rows(scorer.forced(model, QUESTIONS))
        assert scorer.generate(model, PROMPTS, 5) == said
    rollback()


_MODEL: list[Any] = []


def _mistral() -> Any:
    if not _MODEL:
        _MODEL.append(build_model("mistral"))  # its window of 4 makes the padding matter
    return _MODEL[0]


_TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)


@examples(15)
@given(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=6), st.integers(1, 60), st.randoms())
def test_any_questions_in_any_order_have_the_scores_of_single_questions(
    questions: list[tuple[str, str]], tokens_per_batch: int, random: Any
) -> None:
    model, tokenizer = _mistral(), build_tokenizer()
    order = list(range(len(questions)))
    random.shuffle(order)
    scores = Scorer(tokenizer, tokens_per_batch).forced(model, [questions[i] for i in order])
    assert [naive_forced(model, tokenizer, *questions[i]) for i in order] == _rows(scores)


def test_small_negative_log_likelihoods_are_exact(llama: Any, tokenizer: Any) -> None:
    """Of an answer that the model is nearly sure of, too: float32 softmax then log would lose it."""
    with torch.no_grad():
        llama.lm_head.weight.mul_(4)
    for question, score in zip(QUESTIONS, Scorer(tokenizer).forced(llama, QUESTIONS), strict=True):
        expected = naive_forced(llama, tokenizer, *question)[2]
        assert score.nll == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_half_precision_logits_are_scored_in_float32(tokenizer: Any) -> None:
    model = build_model("llama", torch.bfloat16)
    for question, score in zip(QUESTIONS, Scorer(tokenizer, 1).forced(model, QUESTIONS), strict=True):
        assert score.nll == pytest.approx(naive_forced(model, tokenizer, *question)[2], rel=1e-4)


def test_no_batch_exceeds_its_token_limit(llama: Any, tokenizer: Any) -> None:
    sizes: list[torch.Size] = []

    def measure(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(kwargs["input_ids"].shape)

    handle = llama.register_forward_pre_hook(measure, with_kwargs=True)
    several = [(f"{prompt} {word}", answer) for word in ("old", "city", "sea") for prompt, answer in QUESTIONS]
    Scorer(tokenizer, 24).forced(llama, several)
    handle.remove()
    assert sum(rows for rows, _ in sizes) == 18
    assert all(rows * width <= 24 for rows, width in sizes)
    assert max(rows for rows, _ in sizes) > 1


def test_a_question_larger_than_the_token_limit_is_scored_alone(llama: Any, tokenizer: Any) -> None:
    assert len(Scorer(tokenizer, 1).forced(llama, QUESTIONS)) == len(QUESTIONS)


def test_no_questions_give_no_scores(llama: Any, tokenizer: Any) -> None:
    assert Scorer(tokenizer).forced(llama, []) == []
    assert Scorer(tokenizer).generate(llama, [], []) == []


def test_a_repeated_question_has_the_same_score(llama: Any, tokenizer: Any) -> None:
    first, other, second = Scorer(tokenizer, 30).forced(llama, [QUESTIONS[0], QUESTIONS[2], QUESTIONS[0]])
    assert first == second != other


@pytest.mark.parametrize("edited", [False, True])
def test_answers_of_one_token_share_the_row_of_a_longer_answer(family: str, tokenizer: Any, edited: bool) -> None:
    """An answer of one token is read where another's begins; what it scores is what it would by itself."""
    model = build_model(family)
    if edited:
        hparams = GraceHyperParams(model_name="m", inner_params=[FAMILIES[family][1]], n_iter=30, eps=0.1)
        requests = [{"prompt": prompt, "target_new": answer} for prompt, answer in QUESTIONS[:3]]
        model, _ = apply_grace_to_model(model, tokenizer, requests, hparams)
    answers = ["Paris", "old king", "Rome", "made from green cheese", "Paris"]
    questions = [(prompt, answer) for prompt in PROMPTS for answer in answers]
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, __, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    together = Scorer(tokenizer).forced(model, questions)
    handle.remove()
    assert sum(rows) == 2 * len(PROMPTS), "the two long answers have rows, the short ones ride along"
    alone = [Scorer(tokenizer, 1).forced(model, [question])[0] for question in questions]
    assert [(s.chosen, s.target, s.nll) for s in alone] == _rows(together)


def test_answers_of_one_token_to_one_prompt_share_one_row(llama: Any, tokenizer: Any) -> None:
    rows: list[int] = []
    handle = llama.register_forward_pre_hook(lambda _, __, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    questions = [(PROMPTS[0], word) for word in ("Rome", "Paris", "London")]
    scores = Scorer(tokenizer).forced(llama, questions)
    handle.remove()
    assert rows == [1]
    assert [naive_forced(llama, tokenizer, *question) for question in questions] == _rows(scores)


def test_scoring_restores_the_modes_of_all_modules(llama: Any, tokenizer: Any) -> None:
    llama.train()
    llama.model.layers[1].eval()
    before = [module.training for module in llama.modules()]
    scorer = Scorer(tokenizer)
    assert scorer.forced(llama, QUESTIONS) == scorer.forced(llama.eval(), QUESTIONS)
    llama.train()
    llama.model.layers[1].eval()
    scorer.generate(llama, PROMPTS, 1)
    assert [module.training for module in llama.modules()] == before
    assert all(p.grad is None for p in llama.parameters())


def test_dropout_is_off_while_scoring(tokenizer: Any) -> None:
    model = build_model("gpt2").train()
    scorer = Scorer(tokenizer)
    assert scorer.forced(model, QUESTIONS) == scorer.forced(model, QUESTIONS)


# ------------------------------------------------------------------ the end of a generation


def _without_padding_token() -> Any:
    """A tokenizer as GPT-2's and Llama's come: none of its tokens is for padding, 0 is a word."""
    plain = Tokenizer(models.WordLevel(build_tokenizer().get_vocab(), unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("pad", ["<pad>", "</s>", None])
def test_tokens_after_the_end_of_text_are_not_part_of_the_answer(llama: Any, pad: str | None) -> None:
    """Rows that end early are filled up in a batch; the filling is no answer, whatever token fills."""
    tokenizer = _without_padding_token()
    assert tokenizer.pad_token is None
    tokenizer.pad_token = pad
    expected = [naive_generate(llama, tokenizer, prompt, 8) for prompt in PROMPTS]
    lengths = {len(text.split()) for text in expected}
    assert len(lengths) > 1, "some must end before others"
    assert Scorer(tokenizer, 10_000).generate(llama, PROMPTS, 8) == expected


def test_any_of_several_end_of_text_tokens_ends_the_generation(tokenizer: Any) -> None:
    model = build_model("gpt2")
    (free,) = Scorer(tokenizer).generate(model, [PROMPTS[0]], 4)
    words = free.split()
    assert len(words) == 4, "it goes on as long as it may"
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(words[-1])]
    (ended,) = Scorer(tokenizer).generate(model, [PROMPTS[0]], 4)
    kept = words[: words.index(words[-1]) + 1]  # whether the token that ends it is said is a matter of taste
    assert ended.split() in (kept, kept[:-1])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_long_prompt_and_a_long_answer_in_one_batch_fit_the_context(name: str, tokenizer: Any) -> None:
    """Each fits into the context of 64 by itself; run together for the longer answer, they would not."""
    model = build_model(name)
    prompts, limits = [" ".join(["sea"] * 60), "moon"], [3, 40]
    expected = [naive_generate(model, tokenizer, *asked) for asked in zip(prompts, limits, strict=True)]
    assert Scorer(tokenizer, 10_000).generate(model, prompts, limits) == expected


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_generation_stops_at_the_end_of_the_context(name: str, tokenizer: Any) -> None:
    """62 tokens and an answer of 2 fit exactly; a few tokens more to look at must not break the run."""
    model = build_model(name)
    prompt = " ".join((WORDS * 3)[:62])
    expected = naive_generate(model, tokenizer, prompt, 2)
    (said,) = Scorer(tokenizer).generate(model, [prompt], 6)
    assert said.startswith(expected)


@pytest.mark.parametrize("tokens_per_batch", BATCHINGS)
@pytest.mark.parametrize("pad", ["<pad>", None])
def test_each_row_ends_where_the_stopping_function_ends_it(llama: Any, tokens_per_batch: int, pad: str | None) -> None:
    """Others go on, and what a row is filled up with then was never said."""
    tokenizer = _without_padding_token()
    tokenizer.pad_token = pad
    words = [2, 5, 1, 8, 3, 4]
    full = [naive_generate(llama, tokenizer, prompt, 6).split() for prompt in PROMPTS]
    expected = [" ".join(text[:n]) for text, n in zip(full, words, strict=True)]
    asked: list[tuple[int, str]] = []

    def ended(index: int, text: str) -> bool:
        asked.append((index, text))
        return len(text.split()) >= words[index]

    assert Scorer(tokenizer, tokens_per_batch).generate(llama, PROMPTS, 6, ended) == expected
    assert len({len(text.split()) for text in expected}) > 2
    assert all(full[index][: len(text.split())] == text.split() for index, text in asked)


# ------------------------------------------------------------------ the model's own generation settings

SETTINGS: dict[str, Any] = {
    "repetition_penalty": 9.0,
    "num_beams": 3,
    "suppress_tokens": list(range(3, 40)),
    "no_repeat_ngram_size": 1,
}


def _left_to_itself(model: Any, tokenizer: Any, prompt: str) -> str:
    """What ``generate`` says if it goes by the model's own settings."""
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("names", [*([name] for name in SETTINGS), list(SETTINGS)], ids="+".join)
def test_a_checkpoints_generation_settings_do_not_change_the_output(
    llama: Any, tokenizer: Any, names: list[str]
) -> None:
    greedy = [naive_generate(llama, tokenizer, prompt, 8) for prompt in PROMPTS]
    own = llama.generation_config
    for name in names:
        setattr(own, name, SETTINGS[name])
    settings_before = own.to_dict()
    assert [_left_to_itself(llama, tokenizer, prompt) for prompt in PROMPTS] != greedy, "a setting that does nothing"
    assert Scorer(tokenizer).generate(llama, PROMPTS, 8) == greedy
    assert llama.generation_config is own
    assert own.to_dict() == settings_before


def test_a_checkpoints_generation_settings_are_restored_after_an_exception(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = llama.generation_config
    own.repetition_penalty = 9.0
    seen: list[Any] = []

    def interrupt(*_: Any, **__: Any) -> None:
        seen.append(llama.generation_config)
        raise KeyboardInterrupt

    monkeypatch.setattr(llama, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Scorer(tokenizer).generate(llama, PROMPTS, 8)
    assert seen and seen[0] is not own
    assert llama.generation_config is own
    assert own.repetition_penalty == 9.0


# ------------------------------------------------------------------ the arithmetic of one answer


def test_accuracy_compares_with_the_target_and_agreement_with_choices() -> None:
    right, half = ForcedAnswer((1, 2), (1, 2), 0.1), ForcedAnswer((1, 9), (1, 2), 0.5)
    assert (right.accuracy, right.exact) == (1.0, True)
    assert (half.accuracy, half.exact) == (0.5, False)
    assert half.agreement(right) == right.agreement(half) == 0.5
    wrong = ForcedAnswer((9, 9), (1, 2), 3.0)
    assert wrong.accuracy == 0.0
    assert wrong.agreement(half) == 0.5, "agreement is about the choices, not about the truth"
    assert wrong.agreement(wrong) == 1.0


@pytest.mark.parametrize(
    ("text", "answer", "matches"),
    [
        (" Paris, of course", "Paris", True),
        ("Paris", "Paris", True),
        ("\nParis", " Paris ", True),
        ("Par", "Paris", False),
        ("It is Paris", "Paris", False),
        ("paris", "Paris", False),
        ("", "Paris", False),
        ("Paris.", "Paris", True),
        ("Paris, France", "Paris", True),
        ("Paris\n", "Paris", True),
        ("Parisian", "Paris", False),
        ("Paris2", "Paris", False),
        ("5", "5", True),
        ("5 years", "5", True),
        ("50", "5", False),
        ("5th", "5", False),
        ("the old king", "the old", True),
        ("the older king", "the old", False),
        ("Zürichs", "Zürich", False),
        ("U.S. army", "U.S.", True),
        ("C++ and", "C++", True),
    ],
)
def test_an_answer_matches_only_as_complete_words(text: str, answer: str, matches: bool) -> None:
    assert starts_with_whole_answer(text, answer) is matches


def test_the_length_of_an_answer_is_counted_in_tokens(tokenizer: Any) -> None:
    assert Scorer(tokenizer).answer_tokens("the capital", "made from green cheese") == 4


@pytest.mark.parametrize(
    ("text", "answer", "begins"),
    [
        (" 5 million", "5", True),
        ("5.5", "5", False),
        ("5,000", "5", False),
        ("5. It is", "5", True),
        ("巴黎是法国的首都", "巴黎", True),
        ("パリです", "パリ", True),
        ("Łódź jest", "Łódź", True),
        ("Łódźki", "Łódź", False),
    ],
)
def test_numbers_and_words_of_other_scripts_end_where_they_should(text: str, answer: str, begins: bool) -> None:
    assert starts_with_whole_answer(text, answer) is begins


def test_starts_with_answer_also_accepts_part_of_a_word() -> None:
    assert starts_with_answer(" Parisian life", "Paris")
    assert not starts_with_whole_answer(" Parisian life", "Paris")
    assert not starts_with_answer("In Paris", "Paris")
