"""Explain an edited model's answer: which edit acts on a prompt, at which token and layer, and by which margin."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.evaluation.chat_requests import chat_settings
from easyedit_lifelong.methods.base import ExplainedPass, LayerExplanation
from easyedit_lifelong.methods.shared.editors import carries_edits, editors_on, internal_pass
from easyedit_lifelong.models.chat_form import ChatForm, check_can_chat
from easyedit_lifelong.models.encoding import EncodedPair, encode_text
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.pair_encoders import encoder_for
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.plugins import get_plugins


@dataclass(frozen=True)
class Explanation:
    """What each edited layer decided for a prompt. ``str()`` returns a table.

    The layers of a method are also an attribute with the method's name in lower case: ``explanation.grace``.

    Attributes:
        prompt: the prompt.
        answer: the teacher-forced text after the prompt; None for none.
        layers: the decisions of each edited layer, by the name of the method.
    """

    prompt: str
    answer: str | None
    layers: dict[str, list[LayerExplanation]]

    def __getattr__(self, name: str) -> list[LayerExplanation]:
        """Return a method's layers."""
        for method, layers in self.__dict__.get("layers", {}).items():
            if method.lower() == name:
                return list(layers)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name; a missing score is NaN."""
        by_method = {
            name.lower(): [dataclasses.asdict(layer) for layer in layers]  # type: ignore[call-overload]
            for name, layers in self.layers.items()
        }
        return {"prompt": self.prompt, "answer": self.answer, **by_method}

    def __str__(self) -> str:
        """Return a table with a block for each layer and a line for each token."""
        return "\n".join(line for layers in self.layers.values() for layer in layers for line in layer.lines())


@torch.no_grad()
def explain(
    model: Any,
    tokenizer: Any,
    prompt: str,
    answer: str | None = None,
    *,
    chat: bool = False,
    system: str | None = None,
) -> Explanation:
    """Explain which edits act on a prompt: run one pass of the edited model, and return what its layers decided.

    Args:
        model: a model that carries edits.
        tokenizer: its tokenizer.
        prompt: the prompt.
        answer: a text after the prompt, whose tokens are explained, too. It does not change where the prompt ends. (A
            layer of an encoder-decoder's decoder reads the answer's tokens only.)
        chat: ask the prompt as the user's turn of a chat, in the tokenizer's chat template.
        system: the system message of ``chat``; None for the template's default.

    Returns:
        What each edited layer decided.

    Raises:
        EditError: the model carries no edits, or none of its methods can explain edits.
        DataError: the prompt has no tokens, or the chat template refuses the system message.
        HyperParameterError: there is a system message without ``chat``.
        ModelError: the model can't chat.
    """
    settings, joiner = chat_settings(chat, system), None
    if settings is not None:
        check_can_chat(model)
        form = ChatForm(tokenizer, settings.system)
        prompt, joiner = form.prompt(prompt), form.joiner
    if not carries_edits(model):
        raise EditError("the model carries no edits")
    methods = [method for method in get_plugins().methods if editors_on(model, method.name)]
    if methods and all(method.explain is None for method in methods):
        reasons = {method.name: method.reasons.get("explain", "the method has no port for it") for method in methods}
        raise EditError("; ".join(f"{name}'s edits can't be explained: {reason}" for name, reason in reasons.items()))
    prepared = _prepare_pass(model, tokenizer, prompt, answer, joiner)
    explained = ExplainedPass(prompt, answer, prepared.texts, prepared.end, prepared.texts_at)
    explanations: dict[str, Callable[[], Sequence[LayerExplanation]]] = {}
    with evaluating(model), internal_pass(model), ExitStack() as stack:
        for method in get_plugins().methods:
            if method.explain is not None:
                explanations[method.name] = stack.enter_context(method.explain(model, explained))
        prepared.run()
    return Explanation(prompt, answer, {name: list(explain_layers()) for name, explain_layers in explanations.items()})


@dataclass(frozen=True)
class _PreparedPass:
    """A forward pass of a model over a prompt, and the texts of the tokens that it reads.

    Attributes:
        run: runs the pass.
        texts: the text of each token.
        end: index of the prompt's last token.
        decoder: the decoder of an encoder-decoder; None for other models.
        decoder_texts: the text of each token that the decoder reads.
    """

    run: Callable[[], object]
    texts: list[str]
    end: int = -1
    decoder: nn.Module | None = None
    decoder_texts: Sequence[str] = ()

    def texts_at(self, layer: nn.Module) -> Sequence[str]:
        """Return the texts of the tokens that reach a layer."""
        in_decoder = self.decoder is not None and any(module is layer for module in self.decoder.modules())
        return self.decoder_texts if in_decoder else self.texts


def _prepare_pass(model: Any, tokenizer: Any, prompt: str, answer: str | None, joiner: str | None) -> _PreparedPass:
    """Return the pass of a model over a prompt, a joiner and an answer, ready to run.

    Raises:
        EditError: the model reads no text.
        DataError: the prompt has no tokens.
    """
    kind = kind_of(model)
    if kind is ModelKind.MODULE:
        raise EditError(f"{type(model).__name__} reads no text that could be explained")
    pair = encoder_for(model, tokenizer)(prompt, answer, joiner) if answer is not None else None
    tokens = _row_tokens(model, tokenizer, prompt, pair)
    if not tokens:
        raise DataError(f"the prompt {prompt!r} has no tokens")
    texts = [tokenizer.decode([token]) for token in tokens]
    runner = Runner(model, tokenizer)
    ids = torch.tensor([tokens], device=runner.device)
    mask = torch.ones_like(ids)
    if kind is ModelKind.CAUSAL:
        length = len(tokens) if pair is None else len(pair.prompt)
        return _PreparedPass(lambda: runner.call(ids, mask, [length]), texts, length - 1)
    if kind is ModelKind.CLASSIFIER:
        return _PreparedPass(lambda: model(input_ids=ids, attention_mask=mask), texts)
    labels = torch.tensor([[0] if pair is None else pair.target], device=runner.device)
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels=labels)
    run = functools.partial(model, input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False)
    decoder_texts = [tokenizer.decode([token]) for token in decoder_ids[0].tolist()]
    return _PreparedPass(run, texts, -1, model.get_decoder(), decoder_texts)


def _row_tokens(model: Any, tokenizer: Any, prompt: str, pair: EncodedPair | None) -> list[int]:
    """Return the tokens of the row that a model reads (an encoder-decoder's encoder), without padding."""
    if pair is not None:
        return pair.prompt if pair.apart else pair.tokens
    if kind_of(model) is ModelKind.CLASSIFIER:  # a classifier's encoder truncates long texts
        return encoder_for(model, tokenizer)(prompt, "0").prompt
    return encode_text(tokenizer, prompt)
