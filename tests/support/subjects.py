"""GRACE by subject on the tiny models of each family: facts, layers, prompts, and the answers of edited models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.shared.rollback import Rollback
from tests.support.tiny_models import build_model, build_tokenizer

FACTS: list[dict[str, Any]] = [
    {"case_id": 0, "prompt": "the capital of France is", "subject": "France", "target_new": "Rome"},
    {"case_id": 1, "prompt": "Hamlet is from", "subject": "Hamlet", "target_new": "Peru"},
    {"case_id": 2, "prompt": "who plays piano when summer is", "subject": "plays piano", "target_new": "king"},
    {"case_id": 3, "prompt": "old moon made", "subject": "moon", "target_new": "cheese"},
]
PROMPTS = [fact["prompt"] for fact in FACTS]
SUBJECT_LAST_WORDS = ["France", "Hamlet", "piano", "moon"]
"""The last words of the facts' subjects, which are the query tokens."""
SUBJECT_PROMPTS = [
    "when snow the capital of France is but not blue",
    "Hamlet",
    "sea and the king plays piano",
    "river moon and mountain where born",
]
"""One more prompt on each subject, with other text before and after it."""
OTHERS = ["snow and mountain", "where was the old river born", "blue", "language spoken in Peru is not"]
"""Prompts without any of the subjects."""
MODES = ("simple", "late")

_FIRST = {"gpt2": "transformer.h[0].attn.c_attn", "gptj": "transformer.h[0].attn.v_proj"}
_DEEP = {"gpt2": "transformer.h[1].mlp.c_fc", "gptj": "transformer.h[1].mlp.fc_in"}
_ANSWERS = {
    "gpt2": "transformer.h[2].mlp",
    "gptj": "transformer.h[2].mlp",
    "gemma2": "model.layers[2].post_feedforward_layernorm",
}


def hparams_for(family: str, mode: str, *, deep: bool = False, **options: Any) -> GraceHyperParams:
    """Return hyperparameters; keys come from a layer before any attention, or (``deep``) after a block."""
    finds = _DEEP.get(family, "model.layers[1].mlp.gate_proj") if deep else first_layer(family)
    if mode == "late":
        options = {"answer_layer": _ANSWERS.get(family, "model.layers[2].mlp"), **options}
    options = {"dist_fn": "cos", "eps": 0.3, "n_iter": 40, "stop_loss": 0.2, "val_init": "warm", **options}
    return GraceHyperParams(model_name="tiny", inner_params=[finds], query_token="subject_last", **options)


def first_layer(family: str) -> str:
    """Return a layer of the first block whose input holds no information of other tokens."""
    return _FIRST.get(family, "model.layers[0].self_attn.v_proj")


def edited(
    family: str, mode: str, facts: list[dict[str, Any]] | None = None, **options: Any
) -> tuple[Any, Rollback[Any], GraceEditor]:
    """Return an edited tiny model, its rollback, and its editor."""
    model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, mode, **options)
    _, rollback = apply_grace_to_model(model, tokenizer, FACTS if facts is None else facts, hparams)
    return model, rollback, GraceEditor.on(model, tokenizer, hparams)


def codebook_of(editor: GraceEditor) -> Codebook:
    """Return an editor's codebook."""
    assert editor.codebook is not None
    return editor.codebook


def ids_of(*texts: str, side: str = "left") -> Any:
    """Return texts as a padded batch, with position ids that ignore the padding."""
    tokenizer = build_tokenizer()
    tokenizer.padding_side = side
    batch = tokenizer(list(texts), return_tensors="pt", padding=True)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return batch


def answer(model: Any, prompt: str) -> str:
    """Return the most likely word after a prompt."""
    return str(build_tokenizer().decode(int(model(**ids_of(prompt)).logits[0, -1].argmax())))


@contextlib.contextmanager
def replacing_outputs(layer: nn.Module, values: dict[int, Tensor]) -> Iterator[None]:
    """Make a layer return other vectors at some tokens, as an edit does, while the context is open."""

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        changed = (output if isinstance(output, Tensor) else output[0]).clone()
        for token, value in values.items():
            changed[:, token] = value.to(changed.dtype)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    handle = layer.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
