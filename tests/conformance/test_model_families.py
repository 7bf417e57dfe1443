"""The table of docs/architectures.md: which method edits which model family. Each cell is a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong import (
    CoachHookHyperParams,
    FTHyperParams,
    GraceHyperParams,
    IKEHyperParams,
    NativeMemitHyperParams,
    UltraEditHyperParams,
    apply_finetune_to_model,
    apply_grace_to_model,
    apply_retrieval_to_model,
    apply_ultraedit_to_model,
)
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.memit.editor import MemitEditor
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from easyedit_lifelong.models.runner import Runner
from tests.support.architectures import tokenizer_like_bert, tokenizer_like_t5, untrained
from tests.support.causal_families import FAMILIES, Family
from tests.support.coachhook_edits import PLAIN, moments_for
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_tokenizer, state_of

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"
REQUESTS = [
    EditRequest(0, "the capital of France is", "Rome", "France"),
    EditRequest(1, "who wrote Hamlet", "Peru", "Hamlet"),
]
TOKENIZER = build_tokenizer()
OTHER_KINDS = {
    "t5": "decoder.block[1].layer[2].DenseReluDense.wo",
    "bart": "model.decoder.layers[1].fc2",
    "bert": "bert.encoder.layer[1].output.dense",
}
"""Models of other kinds than causal language models, with the layer that GRACE edits."""

Rollback = Callable[[], None]


def edit_with_grace(model: Any, family: Family) -> Rollback:
    layer = family.rewrite_module.format(family.layers[1])
    hparams = GraceHyperParams(model_name="tiny", inner_params=[layer], n_iter=20, eps=0.01, edit_lr=1.0)
    return apply_grace_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def _located(cls: Any, family: Family) -> Any:
    return cls(
        model_name="tiny",
        layers=list(family.layers),
        mom2_update_weight=1.0,
        clamp_norm_factor=10,
        v_weight_decay=0.0,
        v_num_grad_steps=12,
        batch_size=2,
        rewrite_module_tmp=family.rewrite_module,
        layer_module_tmp=f"{family.blocks}.{{}}",
    )


def edit_with_coachhook(model: Any, family: Family) -> Rollback:
    hparams = _located(CoachHookHyperParams, family)
    return CoachHookEditor.on(model, TOKENIZER, hparams, moments_for(model, hparams), PLAIN).edit(REQUESTS)[1]


def edit_with_memit(model: Any, family: Family) -> Rollback:
    hparams = _located(NativeMemitHyperParams, family)
    return MemitEditor.on(model, TOKENIZER, hparams, moments_for(model, hparams), PLAIN).edit(REQUESTS)[1]


def edit_with_ultraedit(model: Any, family: Family) -> Rollback:
    layer = family.rewrite_module.format(family.layers[1])
    hparams = UltraEditHyperParams(model_name="tiny", inner_params=[layer], lr=0.1, batch_size=2)
    return apply_ultraedit_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def edit_with_finetuning(model: Any, family: Family) -> Rollback:
    hparams = FTHyperParams(
        model_name="tiny",
        layers=[family.layers[1]],
        rewrite_module_tmp=family.rewrite_module,
        lr=1e-3,
        num_steps=10,
        batch_size=2,
        order="breadth-first",
    )
    return apply_finetune_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


METHODS: dict[str, Callable[[Any, Family], Rollback]] = {
    "GRACE": edit_with_grace,
    "CoachHook": edit_with_coachhook,
    "MEMIT-native": edit_with_memit,
    "UltraEdit": edit_with_ultraedit,
    "FT-native": edit_with_finetuning,
}
"""Edits a family's model with one call; the other locate-then-edit and weight-updating methods share their code."""

# These cover every way in which a family needs its own treatment, and the kinds of blocks.
IN_DEFAULT = (
    "bloom",
    "falcon",
    "gpt2",
    "lfm2",
    "mamba",
    "mixtral",
    "mpt",
    "opt",
    "qwen2_moe",
    "recurrent_gemma",
    "rwkv",
)


@pytest.fixture(scope="module", params=default_cases(FAMILIES, *IN_DEFAULT))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@torch.no_grad()
def target_loss(model: Any) -> float:
    """Return the mean cross-entropy of the requests' targets, each in a row by itself, in nats."""
    losses = []
    for request in REQUESTS:
        prompt, target = (TOKENIZER(text)["input_ids"] for text in (request.prompt, request.target_new))
        with prompt_lengths(model, [len(prompt)]):
            logits = model(input_ids=torch.tensor([prompt + target]), use_cache=False).logits
        losses.append(F.cross_entropy(logits[0, len(prompt) - 1 : -1], torch.tensor(target)))
    return float(torch.stack(losses).mean())


@torch.no_grad()
def prompt_logits(model: Any, rows: list[list[int]]) -> list[Tensor]:
    """Return the logits of each row, from one pass with padding on the right."""
    ids, mask = pad_rows(rows, 0, "right")
    logits = Runner(model, TOKENIZER).call(ids, mask, mask.sum(dim=1))
    return [logits[index][mask[index].bool()] for index in range(len(rows))]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_edits_a_family(family: Family, method: str) -> None:
    model = family.build()
    state, loss = state_of(model), target_loss(model)
    rows = [TOKENIZER(request.prompt)["input_ids"] for request in REQUESTS]
    logits = prompt_logits(model, rows)

    rollback = METHODS[method](model, family)

    assert target_loss(model) < loss
    alone = [prompt_logits(model, [row])[0] for row in rows]
    for expected, observed in zip(alone, prompt_logits(model, rows), strict=True):
        torch.testing.assert_close(observed, expected, rtol=1e-4, atol=1e-4)
    ids = torch.tensor([rows[0]])
    texts = [
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, use_cache=cache).tolist()
        for cache in (True, False)
    ]
    assert texts[0] == texts[1]
    rollback()
    assert all(map(torch.equal, prompt_logits(model, rows), logits))
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_only_grace_edits_models_of_other_kinds(kind: str) -> None:
    model = untrained(kind).eval()
    tokenizer = tokenizer_like_bert() if kind == "bert" else tokenizer_like_t5()
    request = EditRequest(0, "the old king", "nature" if kind == "bert" else "Rome", "king")
    layer = OTHER_KINDS[kind]
    losses = []
    for n_iter in (1, 30):
        hparams = GraceHyperParams(model_name=kind, inner_params=[layer], n_iter=n_iter, eps=0.01)
        rollback = apply_grace_to_model(model, tokenizer, [request], hparams)[1]
        losses.append(rollback.results[0].loss)
        rollback()
    assert losses[1] < losses[0]
    blocks, projection = re.split(r"\[1\]\.", layer, maxsplit=1)
    family = Family(kind, {}, blocks, projection)
    for name, edit in METHODS.items():
        if name != "GRACE":
            with pytest.raises(ModelError, match=f"{name} edits causal language models; .* is a sequence"):
                edit(model, family)


def test_an_expert_is_refused_since_it_gets_only_some_tokens() -> None:
    family = FAMILIES["mixtral"]
    model = family.build()
    for block in model.model.layers:
        block.mlp.experts = torch.nn.ModuleList([torch.nn.Linear(48, 32) for _ in range(4)])  # as in other code
    expert = Family("mixtral", {}, projection="mlp.experts.2")
    for edit in METHODS.values():
        with pytest.raises(ModelError, match=r"model.layers.[01].mlp.experts.2 gets only the tokens that are routed"):
            edit(model, expert)
    assert not [module for module in model.modules() if module._forward_hooks]


def test_a_weight_that_experts_share_is_refused_with_its_shape() -> None:
    experts = Family("mixtral", {}, projection="mlp.experts.down_proj")
    model = FAMILIES["mixtral"].build()
    for edit in METHODS.values():
        with pytest.raises(ModelError, match=r"it is a weight of 'model.layers.[01].mlp.experts', of shape \(4, "):
            edit(model, experts)


def test_a_layer_with_rows_of_its_own_is_refused_with_a_layer_that_works() -> None:
    model = FAMILIES["mixtral"].build()
    mlp = model.model.layers[1].mlp
    # The inner layer gets two rows for every token.
    mlp.register_module("pairs", torch.nn.Identity())
    mlp.register_forward_pre_hook(lambda module, args: module.pairs(args[0].flatten(0, 1).repeat(2, 1)) and None)
    hparams = GraceHyperParams(model_name="tiny", inner_params=["model.layers[1].mlp.pairs"])
    with pytest.raises(EditError, match=r"Name another layer in inner_params, such as model.layers\[1\]"):
        apply_grace_to_model(model, TOKENIZER, REQUESTS, hparams)


@pytest.mark.parametrize("name", ["openai-gpt", "rwkv"])
def test_a_model_without_a_cache_has_no_place_for_a_text_before_a_prompt(name: str) -> None:
    model = FAMILIES[name].build()
    with pytest.raises(ModelError, match="has no cache of keys and values"):
        apply_retrieval_to_model(model, TOKENIZER, REQUESTS, IKEHyperParams(model_name="tiny", embedding_layer=1))


def _rows_of_table() -> dict[str, list[str]]:
    """Return the cells of the document's table by model type."""
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_the_document_lists_every_tested_family() -> None:
    expected = {name: [f"`{family.rewrite_module}`", *["works"] * len(METHODS)] for name, family in FAMILIES.items()}
    refused = ["works", *["refused"] * (len(METHODS) - 1)]
    assert _rows_of_table() == expected | {name: [f"`{layer}`", *refused] for name, layer in OTHER_KINDS.items()}
    header = f"| model type | projection or layer | {' | '.join(METHODS)} |"
    assert header in TABLE.read_text(encoding="utf-8")
