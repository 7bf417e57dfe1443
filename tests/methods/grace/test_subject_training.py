"""Values at a subject's token are trained on what the model says with them in place: against plain torch in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.subject.request_texts import RequestTexts
from easyedit_lifelong.methods.grace.subject.subject_edits import SubjectBatch
from easyedit_lifelong.methods.grace.training import optimise as training
from easyedit_lifelong.methods.grace.training.optimise import train_values
from easyedit_lifelong.models.encoding import IGNORED, EncodedPair
from tests.support.subjects import FACTS, hparams_for, putting
from tests.support.tiny_models import build_model, build_tokenizer

TOLD = [
    ("the capital of France is", 3, "Rome"),
    ("Hamlet", 0, "green cheese"),
    ("who plays piano when summer is far away", 2, "king and bird song"),
    ("moon made from", 0, ""),
]
"""Texts, where the value goes in, and answers; the last has none."""


def pairs_of(told: list[tuple[str, int, str]]) -> list[EncodedPair]:
    tokenizer = build_tokenizer()
    return [EncodedPair(tokenizer(text)["input_ids"], tokenizer(target)["input_ids"]) for text, _, target in told]


def by_torch(family: str, path: str, pair: EncodedPair, at: int, value: Tensor | None) -> Tensor:
    """Return float64 logits that predict a row's answer, or, without one, what its text is followed by."""
    model = build_model(family).double()
    ids = torch.tensor([[*pair.prompt, *pair.target[:-1]]])
    with putting(model.get_submodule(path), {} if value is None else {at: value}):
        logits = model(input_ids=ids).logits[0]
    return logits[len(pair.prompt) - 1 :][: max(1, len(pair.target))]


@pytest.mark.parametrize("known", [True, False], ids=["anatomy", "no-anatomy"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2], [3, 1], [1, 1, 0]])
def test_logits_are_those_of_the_whole_model(family: str, known: bool, rows: list[int]) -> None:
    model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, "simple", deep=True)
    editor = GraceEditor.on(model, tokenizer, hparams)
    if not known:
        editor._passes._anatomy = None
    told = [TOLD[row] for row in rows]
    pairs, at = pairs_of(told), [index for _, index, _ in told]
    lesson: Any = editor._passes.of(editor.adaptor, pairs, 1, 0, at)
    assert lesson.is_partial is known
    assert editor.replay_support[0] is True
    generator = torch.Generator().manual_seed(0)
    values = lesson.output + torch.randn(lesson.output.shape, generator=generator)
    with torch.no_grad():
        logits = lesson.logits(values)
        few = lesson.select_rows(torch.tensor([len(rows) - 1])).logits(values[-1:])
    assert logits.shape[:2] == lesson.targets.shape == lesson.unedited.shape[:2]
    for row, (pair, index) in enumerate(zip(pairs, at, strict=True)):
        length = len(pair.target)
        assert lesson.targets[row].tolist() == pair.target + [IGNORED] * (lesson.targets.shape[1] - length)
        for told_logits, value in ((logits, values[row]), (lesson.unedited, None)):
            expected = by_torch(family, editor.path, pair, index, value)
            torch.testing.assert_close(told_logits[row, : len(expected)].double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(few[0], logits[-1], rtol=1e-4, atol=1e-4)


def test_what_a_replay_takes_is_the_layers_own(family: str) -> None:
    """Query and output are those at the value's token."""
    model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, "simple", deep=True)
    editor = GraceEditor.on(model, tokenizer, hparams)
    lesson = editor._passes.of(editor.adaptor, pairs_of(TOLD), 1, 0, [index for _, index, _ in TOLD])
    for row, (text, index, _) in enumerate(TOLD):
        seen: list[tuple[Tensor, Tensor]] = []
        handle = editor.adaptor.layer.register_forward_hook(lambda _, args, out, seen=seen: seen.append((args[0], out)))
        model(**tokenizer(text, return_tensors="pt"))
        handle.remove()
        torch.testing.assert_close(lesson.query[row], seen[0][0][0, index], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(lesson.output[row], seen[0][1][0, index], rtol=1e-4, atol=1e-4)


def lesson_of(
    family: str, mode: str, facts: list[dict[str, Any]], **options: Any
) -> tuple[GraceEditor, list[RequestTexts], SubjectBatch]:
    model, tokenizer = build_model(family), build_tokenizer()
    if family != "gemma2":  # whose padding rows are NaN in float64
        model = model.double()
    hparams = hparams_for(family, mode, deep=True, **options)
    editor = GraceEditor.on(model, tokenizer, hparams)
    assert editor._subjects is not None
    cases = editor._subjects.prepare(tokenizer, as_requests(facts), hparams)
    return editor, cases, editor._subjects.batch(tokenizer, cases, hparams, 0)


@pytest.mark.parametrize("kl_factor", [0.0, 0.7])
def test_the_gradient_is_that_of_the_loss_in_plain_torch(
    family: str, mode: str, kl_factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [{**FACTS[0], "target_new": "green cheese"}, FACTS[2]]
    editor, cases, made = lesson_of(
        family,
        mode,
        facts,
        kl_factor=kl_factor,
        context_templates=["blue sea {prompt}", "{subject} is"],
        n_iter=1,
        reg=None,
        edit_lr=1e-3,
    )
    copies = 3 + (kl_factor > 0)
    assert made.value_pass.targets.shape[0] == 2 * copies
    generator = torch.Generator().manual_seed(1)
    starts = made.value_pass.output[::copies].float() + 0.3 * torch.randn(
        2, made.value_pass.output.shape[1], generator=generator
    )
    gradients: list[Tensor] = []
    original = torch.autograd.grad

    def keeping(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        gradients.append(found[0])
        return found

    monkeypatch.setattr(training.torch.autograd, "grad", keeping)
    names = [str(case.request.case_id) for case in cases]
    told = train_values(made.value_pass, starts, editor.hparams, names, names)
    monkeypatch.setattr(training.torch.autograd, "grad", original)

    path = next(name for name, module in editor.model.named_modules() if module is editor.adaptor.layer)
    for n, case in enumerate(cases):
        value = starts[n].double().requires_grad_(True)
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        drift = torch.zeros((), dtype=torch.float64)
        for one in case.texts:
            at = one.subject if mode == "simple" else len(one.pair.prompt) - 1
            logits = by_torch(family, path, one.pair, at, value)
            if one.pair.target:
                total = total + F.cross_entropy(logits, torch.tensor(one.pair.target), reduction="sum")
                tokens += len(one.pair.target)
            else:
                before = by_torch(family, path, one.pair, at, None).detach().log_softmax(dim=1)
                drift = drift + F.kl_div(before, logits.log_softmax(dim=1), log_target=True, reduction="sum")
        assert (kl_factor > 0) == (drift.item() > 0)
        (expected,) = original(total / tokens + kl_factor * drift, value)
        torch.testing.assert_close(
            gradients[0][n].double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )
        assert told[n].steps == 1


def test_rows_without_an_answer_hold_what_is_said(mode: str) -> None:
    """With a heavy weight on it, what the model says behind the subject moves less than without."""
    moved = []
    for factor in (0.0, 50.0):
        hparams = hparams_for("llama", mode, n_iter=30, kl_factor=factor, reg=None, edit_lr=0.1)
        model, tokenizer = build_model("llama"), build_tokenizer()
        ids = tokenizer("France is a", return_tensors="pt")
        before = model(**ids).logits[0, -1].log_softmax(dim=0)
        apply_grace_to_model(model, tokenizer, FACTS[:1], hparams)
        now = model(**ids).logits[0, -1].log_softmax(dim=0)
        moved.append(F.kl_div(before, now, log_target=True, reduction="sum").item())
    assert 0 < moved[1] < 0.5 * moved[0]


def test_a_model_that_cannot_be_taken_apart_is_trained_as_a_whole(family: str, mode: str) -> None:
    books = []
    for taken_apart in (True, False):
        model, tokenizer = build_model(family), build_tokenizer()
        hparams = hparams_for(
            family, mode, deep=True, n_iter=4, reg=None, edit_lr=0.05, context_templates=["{subject}"]
        )
        editor = GraceEditor.on(model, tokenizer, hparams)
        if not taken_apart:
            editor._passes._anatomy = None
        apply_grace_to_model(model, tokenizer, FACTS, hparams)
        assert editor.codebook is not None
        books.append(editor.codebook.values)
    torch.testing.assert_close(*books, rtol=2e-2, atol=2e-2)
