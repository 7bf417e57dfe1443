"""Models whose answers depend on padding, such as RWKV, which reads padding on the left as text."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, NativeMemitHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from easyedit_lifelong.methods.locate_edit.target_vectors import optimise_targets
from easyedit_lifelong.methods.locate_edit.templates import context_templates
from easyedit_lifelong.models.padding import padding_changes_answers, unpadded_groups
from easyedit_lifelong.models.runner import Runner
from tests.support.architectures import LABELS, tokenizer_like_bert, untrained
from tests.support.causal_families import FAMILIES
from tests.support.coachhook_edits import FACTS, TEMPLATES
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer

TOKENIZER = build_tokenizer()
REQUESTS = [EditRequest(n, prompt, target, subject) for n, (prompt, target, subject) in enumerate(FACTS)]


@pytest.fixture(scope="module")
def rwkv() -> Any:
    return FAMILIES["rwkv"].build()


def hparams_of_grace(train_batch: int, **options: Any) -> GraceHyperParams:
    return GraceHyperParams(
        model_name="tiny",
        inner_params=["rwkv.blocks[1].feed_forward.value"],
        n_iter=10,
        eps=0.01,
        train_batch=train_batch,
        **options,
    )


@pytest.mark.parametrize("name", default_cases(FAMILIES, "gpt2", "mamba", "opt", "recurrent_gemma", "rwkv"))
def test_two_recurrent_families_read_padding_as_text(name: str) -> None:
    model = FAMILIES[name].build()
    assert padding_changes_answers(model) == (name in ("recurrent_gemma", "rwkv"))


@pytest.mark.parametrize("kind", ["t5", "bart", "bert"])
def test_encoders_ignore_padding_on_the_right(kind: str) -> None:
    assert not padding_changes_answers(untrained(kind).eval())


def test_a_model_is_tried_once_and_gets_no_attribute(rwkv: Any) -> None:
    model = copy.deepcopy(rwkv)
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    calls: list[int] = []
    forward = type(model).forward
    model.forward = lambda *args, **kwargs: calls.append(1) or forward(model, *args, **kwargs)
    assert padding_changes_answers(model)
    assert padding_changes_answers(model)
    assert len(calls) == 2  # the row alone, and with a longer row
    del model.forward
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes


def test_rows_are_grouped_by_length_only_where_padding_matters(rwkv: Any) -> None:
    assert unpadded_groups(build_model("llama"), [3, 5, 3]) == [[0, 1, 2]]
    assert unpadded_groups(rwkv, [3, 5, 3]) == [[0, 2], [1]]
    assert unpadded_groups(rwkv, []) == []


def test_a_model_that_cannot_be_padded_is_not_padded() -> None:
    model = build_model("llama")
    forward = type(model).forward

    def one_row_only(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > 1:
            raise ValueError("one row, please")
        return forward(model, *args, **kwargs)

    model.forward = one_row_only
    assert padding_changes_answers(model)


def test_edits_do_not_change_the_result_and_count_no_hits() -> None:
    model = build_model("llama")
    hparams = GraceHyperParams(model_name="tiny", inner_params=["model.layers[1].mlp.down_proj"], eps=1e6, n_iter=2)
    apply_grace_to_model(model, TOKENIZER, REQUESTS[:1], hparams)
    (editor,) = GraceEditor.all_of(model).values()
    assert not padding_changes_answers(model)
    assert editor.codebook is not None
    assert not editor.codebook.hits


def test_grace_trains_one_request_at_a_time(rwkv: Any) -> None:
    values = []
    for train_batch in (1, 4):
        model = copy.deepcopy(rwkv)
        apply_grace_to_model(model, TOKENIZER, REQUESTS, hparams_of_grace(train_batch))
        (editor,) = GraceEditor.all_of(model).values()
        assert editor.codebook is not None
        values.append(editor.codebook.values)
    assert torch.equal(values[0], values[1])


def test_grace_by_subject_is_refused_with_the_reason(rwkv: Any) -> None:
    model = copy.deepcopy(rwkv)
    with pytest.raises(ModelError, match=r"padding changes the answers of RwkvForCausalLM\. Use prompt_last"):
        apply_grace_to_model(model, TOKENIZER, REQUESTS, hparams_of_grace(1, query_token="subject_last"))
    assert not GraceEditor.all_of(model)


def test_target_vectors_do_not_depend_on_the_other_requests_of_a_batch(rwkv: Any) -> None:
    hparams = NativeMemitHyperParams(
        model_name="tiny",
        layers=[0, 1],
        v_num_grad_steps=5,
        rewrite_module_tmp="rwkv.blocks.{}.feed_forward.value",
        layer_module_tmp="rwkv.blocks.{}",
    )
    facts = [encode_fact(TOKENIZER, request, TEMPLATES, hparams, None) for request in REQUESTS]
    runner = Runner(rwkv, TOKENIZER)
    together = optimise_targets(runner, facts, hparams, 1).z
    for fact, z in zip(facts, together, strict=True):
        torch.testing.assert_close(optimise_targets(runner, [fact], hparams, 1).z[0], z, rtol=1e-4, atol=1e-4)


def test_generated_texts_do_not_depend_on_the_other_prompts(rwkv: Any) -> None:
    scorer = Scorer(TOKENIZER)
    prompts = [request.prompt for request in REQUESTS]
    together = scorer.generate(rwkv, prompts, 4)
    assert together == [scorer.generate(rwkv, [prompt], 4)[0] for prompt in prompts]


def test_context_templates_are_generated_without_padding(rwkv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = {"The": 1, "Therefore": 2, "Because": 1, "I": 3, "You": 1}

    class Tokenizer:
        pad_token_id, eos_token_id, bos_token_id = 0, None, None

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [5, 6, 7][: lengths[text]]}

        def batch_decode(self, rows: Any, **_: Any) -> list[str]:
            assert 0 not in rows[:, 0]
            return [" ".join(map(str, row.tolist())) for row in rows]

    groups = context_templates(rwkv, Tokenizer(), [[6, 5]], seed=0)
    assert [len(text.removesuffix(". {}").split()) for text in groups[1]] == [6] * 5


def test_labels_are_scored_without_padding_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = untrained("bert").eval(), tokenizer_like_bert()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that every token changes the logits
    forward, widths = type(model).forward, []

    def without_mask(*args: Any, **kwargs: Any) -> Any:
        widths.append(tuple(kwargs["input_ids"].shape))
        return forward(model, input_ids=kwargs["input_ids"])

    model.forward = without_mask
    assert padding_changes_answers(model)
    widths.clear()
    texts = ["the old king", "the moon", "snow and mountain"]
    scorer = scorer_for(model, tokenizer)
    scorer.forced(model, [(text, LABELS[0]) for text in texts])
    assert sorted(widths) == [(1, 4), (2, 5)]
    widths.clear()
    scorer.generate(model, texts)
    assert sorted(widths) == [(1, 4), (2, 5)]
