"""A watched answer: as long as the value of its function stays the same, so do the logits, in each mode of GRACE."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.watch import watch_answers
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair
from easyedit_lifelong.models.runner import Runner
from tests.support.subject_edits import MODES, PROMPTS, REQUESTS, edit, edited
from tests.support.tiny_models import build_model, build_tokenizer


def logits(model: Any, question: EncodedPair) -> torch.Tensor:
    """The teacher-forced logits of a question."""
    ids = torch.tensor([question.tokens[:-1]])
    with torch.no_grad():
        return Runner(model, build_tokenizer()).call(ids, torch.ones_like(ids), [len(question.prompt)])


WORDS = {"named_eps": 0.6}
"""Settings with which the words of texts count, too."""


@pytest.mark.parametrize(
    ("mode", "options"), [*((mode, {}) for mode in MODES), ("late", WORDS), ("late-relations", WORDS)]
)
def test_logits_stay_while_the_value_stays(mode: str, options: dict[str, Any]) -> None:
    tokenizer = build_tokenizer()
    model = build_model("llama")
    edit(model, "llama", mode, REQUESTS[:1], **options)
    questions = [encode_pair(tokenizer, prompt, "cheese winter") for prompt in PROMPTS]
    watches = watch_answers(model, tokenizer, questions)
    states = []
    for request in REQUESTS[1:]:
        states.append(([watch() for watch in watches], [logits(model, question) for question in questions]))
        edit(model, "llama", mode, [request], **options)
    (editor,) = GraceEditor.all_of(model).values()
    for case_id in ("c3", "c0"):
        states.append(([watch() for watch in watches], [logits(model, question) for question in questions]))
        editor.remove(case_id)
    kept = changed = 0
    for (values, before), (later, after) in itertools.pairwise(states):
        for value, now, a, b in zip(values, later, before, after, strict=True):
            kept += value == now
            changed += not torch.equal(a, b)
            assert value != now or torch.equal(a, b)
    assert changed
    assert kept > changed


def test_with_further_keys_no_answer_is_known_to_stay() -> None:
    model, tokenizer = edited("late", REQUESTS[:2], tokens_per_key=1), build_tokenizer()
    (watch,) = watch_answers(model, tokenizer, [encode_pair(tokenizer, "king plays", "bird")])
    assert watch() != watch()


def test_without_edits_the_value_is_that_of_no_keys() -> None:
    model, tokenizer = edited("late", REQUESTS[:1]), build_tokenizer()
    (watch,) = watch_answers(model, tokenizer, [encode_pair(tokenizer, REQUESTS[0]["prompt"], "bird")])
    assert watch()
    (editor,) = GraceEditor.all_of(model).values()
    editor.undo_to(0)
    assert watch() == ()
