"""Encode prompts and answers in the form that each kind of model reads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

from easyedit_lifelong.errors import DataError, did_you_mean
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair, encode_text
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.wrappers import unwrap_model


class Encode(Protocol):
    """Encodes a prompt and its answer."""

    def __call__(self, prompt: str, answer: str, joiner: str | None = None) -> EncodedPair:
        """Return the token ids.

        Args:
            prompt: the prompt.
            answer: the answer.
            joiner: what stands between the two, if the model reads them in one row; None: the texts decide.

        Raises:
            DataError: the prompt or the answer has no tokens, or one that the model does not embed; or the answer isn't
                a label of the classifier.
        """


def encoder_for(model: Any, tokenizer: Any, *, eos: bool = False) -> Encode:
    """Return the function that encodes prompts and answers for a model.

    - Causal language model: the model reads the prompt, the joiner and the answer in one row.
    - Encoder-decoder: the encoder reads the prompt; the decoder gives the answer, which includes the end token.
    - Classifier: the model reads the prompt, truncated to its context length, as usual for classifiers. The answer is
      the name or the index of a label; it is encoded as the index.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        eos: in a causal language model, end answers with the tokenizer's end-of-text token.
    """
    encode = _encoder(model, tokenizer, eos)
    if not has_unknown_tokens(model, tokenizer):
        return encode

    def encode_and_check(prompt: str, answer: str, joiner: str | None = None) -> EncodedPair:
        pair = encode(prompt, answer, joiner)
        check_vocabulary(model, tokenizer, pair.prompt if kind_of(model) is ModelKind.CLASSIFIER else pair.tokens)
        return pair

    return encode_and_check


def check_vocabulary(model: Any, tokenizer: Any, ids: Sequence[int]) -> None:
    """Check that a model has an embedding for every token of a text.

    Args:
        model: the model.
        tokenizer: its tokenizer, to which tokens may have been added.
        ids: the token ids of the text.

    Raises:
        DataError: a token is not in the model's vocabulary.
    """
    known = _n_embeddings(model)
    unknown = next((token for token in ids if known is not None and token >= known), None)
    if unknown is not None:
        raise DataError(
            f"the token {tokenizer.decode([unknown])!r} (number {unknown}) is not in the vocabulary of the model "
            f"({known} tokens). Use the model's own tokenizer, or call model.resize_token_embeddings."
        )


def has_unknown_tokens(model: Any, tokenizer: Any) -> bool:
    """Return whether a tokenizer has more tokens than the model has embeddings, as that of Gemma 3."""
    known = _n_embeddings(model)
    return known is not None and hasattr(type(tokenizer), "__len__") and len(tokenizer) > known


def _n_embeddings(model: Any) -> int | None:
    """Return how many tokens a model embeds; None if that is not known."""
    return getattr(unwrap_model(model).get_input_embeddings(), "num_embeddings", None)


def _encoder(model: Any, tokenizer: Any, eos: bool) -> Encode:
    """Return the function that encodes prompts and answers for a model; see :func:`encoder_for`."""
    kind = kind_of(model)
    if kind is ModelKind.SEQ2SEQ:
        return lambda prompt, answer, joiner=None: _encode_separately(tokenizer, prompt, answer)
    if kind is ModelKind.CLASSIFIER:
        labels = label_names(model)
        limit = _max_tokens(model, tokenizer)
        return lambda prompt, answer, joiner=None: _encode_with_label(tokenizer, labels, limit, prompt, answer)
    return functools.partial(encode_pair, tokenizer, eos=eos)


def label_names(model: Any) -> list[str]:
    """Return the names of a classifier's labels, in the order of its logits."""
    names = model.config.id2label
    return [str(names.get(n, n)) for n in range(model.config.num_labels)]


def _encode_separately(tokenizer: Any, prompt: str, answer: str) -> EncodedPair:
    """Encode a prompt for an encoder and its answer for a decoder."""
    prompt_ids = encode_text(tokenizer, prompt)
    target_ids = list(tokenizer(text_target=answer)["input_ids"])
    content = [token for token in target_ids if token != tokenizer.eos_token_id]
    if not prompt_ids or not content:
        raise DataError(f"the {'answer' if prompt_ids else 'prompt'} of {prompt!r} -> {answer!r} has no tokens")
    return EncodedPair(prompt_ids, target_ids, apart=True)


def _encode_with_label(tokenizer: Any, labels: list[str], limit: int | None, prompt: str, answer: str) -> EncodedPair:
    """Encode a text, truncated to ``limit`` tokens, and its label for a classifier."""
    truncation = {"truncation": True, "max_length": limit} if limit is not None else {}
    ids = list(tokenizer(prompt, **truncation)["input_ids"])
    if not ids:
        raise DataError(f"the text {prompt!r} has no tokens")
    return EncodedPair(ids, [_label_index(labels, answer)], apart=True)


def _label_index(labels: list[str], answer: str) -> int:
    """Return the index of a label, given by name or index."""
    answer = answer.strip()
    if answer in labels:
        return labels.index(answer)
    if answer.isdecimal() and int(answer) < len(labels):
        return int(answer)
    raise DataError(
        f"{answer!r} is no label of the model.{did_you_mean(answer, labels)} "
        f"Use one of the labels 0 to {len(labels) - 1}: {', '.join(labels[:20])}{', …' if len(labels) > 20 else ''}."
    )


def _max_tokens(model: Any, tokenizer: Any) -> int | None:
    """Return the maximum length of a text in tokens; None if neither model nor tokenizer says."""
    # Some configurations count positions that texts can't use (RoBERTa's start at 2). The tokenizer then has the right
    # length.
    known = [context_length(model), getattr(tokenizer, "model_max_length", None)]
    lengths = [length for length in known if length is not None]
    return min(lengths, default=None)
