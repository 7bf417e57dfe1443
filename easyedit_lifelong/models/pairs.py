"""Prompts and answers as token ids, the way each kind of model reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.errors import DataError, did_you_mean
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.load import context_length

Encode = Callable[[str, str], EncodedPair]
"""From a prompt and its answer to their ids.

Raises:
    DataError: one of them has no tokens, or the answer isn't one that the model can give.
"""


def encoder_for(model: Any, tokenizer: Any) -> Encode:
    """Return what encodes prompts and answers for a model.

    - A causal language model reads the prompt and, behind a space, the answer.
    - An encoder-decoder reads the prompt with its encoder; the answer, end token included, is its decoder's.
    - A classifier reads the prompt, cut off where the model's context ends, as is usual for classifiers; the
      answer is a label's number, given by the label's name or by the number.
    """
    kind = kind_of(model)
    if kind is Kind.SEQ2SEQ:
        return lambda prompt, answer: _encode_apart(tokenizer, prompt, answer)
    if kind is Kind.CLASSIFIER:
        labels = label_names(model)
        limit = _longest_text(model, tokenizer)
        return lambda prompt, answer: _encode_labelled(tokenizer, labels, limit, prompt, answer)
    return lambda prompt, answer: encode_pair(tokenizer, prompt, answer)


def label_names(model: Any) -> list[str]:
    """Return the names of a classifier's labels, in the order of its logits."""
    names = model.config.id2label
    return [str(names.get(n, n)) for n in range(model.config.num_labels)]


def _encode_apart(tokenizer: Any, prompt: str, answer: str) -> EncodedPair:
    prompt_ids = list(tokenizer(prompt)["input_ids"])
    target_ids = list(tokenizer(text_target=answer)["input_ids"])
    content = [token for token in target_ids if token != tokenizer.eos_token_id]
    if not prompt_ids or not content:
        raise DataError(f"the {'answer' if prompt_ids else 'prompt'} of {prompt!r} -> {answer!r} has no tokens")
    return EncodedPair(prompt_ids, target_ids, apart=True)


def _encode_labelled(tokenizer: Any, labels: list[str], limit: int | None, prompt: str, answer: str) -> EncodedPair:
    cut = {"truncation": True, "max_length": limit} if limit is not None else {}
    ids = list(tokenizer(prompt, **cut)["input_ids"])
    if not ids:
        raise DataError(f"the text {prompt!r} has no tokens")
    return EncodedPair(ids, [_label_number(labels, answer)], apart=True)


def _label_number(labels: list[str], answer: str) -> int:
    answer = answer.strip()
    if answer in labels:
        return labels.index(answer)
    if answer.isdecimal() and int(answer) < len(labels):
        return int(answer)
    raise DataError(
        f"{answer!r} is no label of the model.{did_you_mean(answer, labels)} "
        f"It knows 0 to {len(labels) - 1}: {', '.join(labels[:20])}{', …' if len(labels) > 20 else ''}."
    )


def _longest_text(model: Any, tokenizer: Any) -> int | None:
    # Some models have more positions than they can use (RoBERTa begins at 2); their tokenizers know.
    known = [context_length(model), getattr(tokenizer, "model_max_length", None)]
    lengths = [length for length in known if length is not None]
    return min(lengths, default=None)
