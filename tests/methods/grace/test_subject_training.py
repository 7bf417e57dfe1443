"""Training of values for edits found by subject: logits and gradients against plain torch in float64."""

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
from tests.support.subjects import FACTS, hparams_for, replacing_outputs
from tests.support.tiny_models import build_model, build_tokenizer

TEXTS = [
    ("the capital of France is", 3, "Rome"),
    ("Hamlet", 0, "green cheese"),
    ("who plays piano when summer is far away", 2, "king and bird song"),
    ("moon made from", 0, ""),
]
"""Each text, the position of the value, and the answer; the last text has none."""


def pairs_of(texts: list[tuple[str, int, str]]) -> list[EncodedPair]:
    tokenizer = build_tokenizer()
    return [EncodedPair(tokenizer(text)["input_ids"], tokenizer(target)["input_ids"]) for text, _, target in texts]


def logits_by_torch(family: str, path: str, pair: EncodedPair, position: int, value: Tensor | None) -> Tensor:
    """Return float64 logits for the tokens of a row's answer; without an answer, for the token after its text."""
    model = build_model(family).double()
    ids = torch.tensor([[*pair.prompt, *pair.target[:-1]]])
    with replacing_outputs(model.get_submodule(path), {} if value is None else {position: value}):
        logits = model(input_ids=ids).logits[0]
    return logits[len(pair.prompt) - 1 :][: max(1, len(pair.target))]


@pytest.mark.parametrize("known_anatomy", [True, False], ids=["anatomy", "no-anatomy"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2], [3, 1], [1, 1, 0]])
def test_logits_of_a_value_pass_equal_those_of_the_full_model(
    family: str, known_anatomy: bool, rows: list[int]
) -> None:
    model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, "simple", deep=True)
    editor = GraceEditor.on(model, tokenizer, hparams)
    if not known_anatomy:
        editor._passes._anatomy = None
    texts = [TEXTS[row] for row in rows]
    pairs, positions = pairs_of(texts), [position for _, position, _ in texts]
    value_pass: Any = editor._passes.build(editor.adaptor, pairs, 1, 0, positions)
    assert value_pass.is_partial is known_anatomy
    assert editor.replay_support[0] is True
    generator = torch.Generator().manual_seed(0)
    values = value_pass.output + torch.randn(value_pass.output.shape, generator=generator)
    with torch.no_grad():
        logits = value_pass.logits(values)
        last_row_logits = value_pass.select_rows(torch.tensor([len(rows) - 1])).logits(values[-1:])
    assert logits.shape[:2] == value_pass.targets.shape == value_pass.unedited.shape[:2]
    for row, (pair, position) in enumerate(zip(pairs, positions, strict=True)):
        length = len(pair.target)
        assert value_pass.targets[row].tolist() == pair.target + [IGNORED] * (value_pass.targets.shape[1] - length)
        for actual_logits, value in ((logits, values[row]), (value_pass.unedited, None)):
            expected = logits_by_torch(family, editor.path, pair, position, value)
            torch.testing.assert_close(actual_logits[row, : len(expected)].double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(last_row_logits[0], logits[-1], rtol=1e-4, atol=1e-4)


def test_query_and_output_of_a_value_pass_equal_the_layers_input_and_output(family: str) -> None:
    """The position is that of the value."""
    model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, "simple", deep=True)
    editor = GraceEditor.on(model, tokenizer, hparams)
    value_pass = editor._passes.build(editor.adaptor, pairs_of(TEXTS), 1, 0, [position for _, position, _ in TEXTS])
    for row, (text, position, _) in enumerate(TEXTS):
        layer_calls: list[tuple[Tensor, Tensor]] = []
        handle = editor.adaptor.layer.register_forward_hook(
            lambda _, args, output, layer_calls=layer_calls: layer_calls.append((args[0], output))
        )
        model(**tokenizer(text, return_tensors="pt"))
        handle.remove()
        torch.testing.assert_close(value_pass.query[row], layer_calls[0][0][0, position], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(value_pass.output[row], layer_calls[0][1][0, position], rtol=1e-4, atol=1e-4)


def batch_of(
    family: str, mode: str, facts: list[dict[str, Any]], **options: Any
) -> tuple[GraceEditor, list[RequestTexts], SubjectBatch]:
    model, tokenizer = build_model(family), build_tokenizer()
    if family != "gemma2":  # its padding rows are NaN in float64
        model = model.double()
    hparams = hparams_for(family, mode, deep=True, **options)
    editor = GraceEditor.on(model, tokenizer, hparams)
    assert editor._subjects is not None
    cases = editor._subjects.prepare(tokenizer, as_requests(facts), hparams)
    return editor, cases, editor._subjects.batch(tokenizer, cases, hparams, 0)


@pytest.mark.parametrize("kl_factor", [0.0, 0.7])
def test_the_gradient_equals_that_of_the_loss_in_plain_torch(
    family: str, mode: str, kl_factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [{**FACTS[0], "target_new": "green cheese"}, FACTS[2]]
    editor, cases, batch = batch_of(
        family,
        mode,
        facts,
        kl_factor=kl_factor,
        context_templates=["blue sea {prompt}", "{subject} is"],
        n_iter=1,
        reg=None,
        edit_lr=1e-3,
    )
    rows_per_edit = 3 + (kl_factor > 0)
    assert batch.value_pass.targets.shape[0] == 2 * rows_per_edit
    generator = torch.Generator().manual_seed(1)
    starts = batch.value_pass.output[::rows_per_edit].float() + 0.3 * torch.randn(
        2, batch.value_pass.output.shape[1], generator=generator
    )
    gradients: list[Tensor] = []
    autograd_grad = torch.autograd.grad

    def recording_grad(*args: Any, **kwargs: Any) -> Any:
        result = autograd_grad(*args, **kwargs)
        gradients.append(result[0])
        return result

    monkeypatch.setattr(training.torch.autograd, "grad", recording_grad)
    names = [str(case.request.case_id) for case in cases]
    trained = train_values(batch.value_pass, starts, editor.hparams, names, names)
    monkeypatch.setattr(training.torch.autograd, "grad", autograd_grad)

    path = next(name for name, module in editor.model.named_modules() if module is editor.adaptor.layer)
    for n, case in enumerate(cases):
        value = starts[n].double().requires_grad_(True)
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        drift = torch.zeros((), dtype=torch.float64)
        for training_text in case.texts:
            position = training_text.subject_end if mode == "simple" else len(training_text.pair.prompt) - 1
            logits = logits_by_torch(family, path, training_text.pair, position, value)
            if training_text.pair.target:
                total = total + F.cross_entropy(logits, torch.tensor(training_text.pair.target), reduction="sum")
                tokens += len(training_text.pair.target)
            else:
                unedited = logits_by_torch(family, path, training_text.pair, position, None).detach().log_softmax(dim=1)
                drift = drift + F.kl_div(unedited, logits.log_softmax(dim=1), log_target=True, reduction="sum")
        assert (kl_factor > 0) == (drift.item() > 0)
        (expected,) = autograd_grad(total / tokens + kl_factor * drift, value)
        torch.testing.assert_close(
            gradients[0][n, 0].double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )
        assert trained[n].steps == 1


def test_kl_factor_preserves_the_distribution_after_the_subject(mode: str) -> None:
    """With a large kl_factor, the distribution after the subject changes less than without."""
    divergences = []
    for factor in (0.0, 50.0):
        hparams = hparams_for("llama", mode, n_iter=30, kl_factor=factor, reg=None, edit_lr=0.1)
        model, tokenizer = build_model("llama"), build_tokenizer()
        ids = tokenizer("France is a", return_tensors="pt")
        before = model(**ids).logits[0, -1].log_softmax(dim=0)
        apply_grace_to_model(model, tokenizer, FACTS[:1], hparams)
        after = model(**ids).logits[0, -1].log_softmax(dim=0)
        divergences.append(F.kl_div(before, after, log_target=True, reduction="sum").item())
    assert 0 < divergences[1] < 0.5 * divergences[0]


def test_training_without_a_known_anatomy_gives_the_same_values(family: str, mode: str) -> None:
    all_values = []
    for known_anatomy in (True, False):
        model, tokenizer = build_model(family), build_tokenizer()
        hparams = hparams_for(
            family, mode, deep=True, n_iter=4, reg=None, edit_lr=0.05, context_templates=["{subject}"]
        )
        editor = GraceEditor.on(model, tokenizer, hparams)
        if not known_anatomy:
            editor._passes._anatomy = None
        apply_grace_to_model(model, tokenizer, FACTS, hparams)
        assert editor.codebook is not None
        all_values.append(editor.codebook.values)
    torch.testing.assert_close(*all_values, rtol=2e-2, atol=2e-2)
