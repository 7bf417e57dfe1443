"""The text that an edit puts in front of a prompt: demonstrations, the fact, and the words before the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.retrieval.config import FACT, RetrievalHyperParams
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.separator import separator

BEGINNING, DEMONSTRATIONS, FACT_TOKENS, ENDING, PROMPT = "beginning", "demonstrations", "fact", "ending", "prompt"
"""Names of the data of an edit, all of them token ids: the token that begins a text (or none), the demonstrations, the
fact, the words before the prompt, and the edit's own prompt."""

PARTS = (BEGINNING, DEMONSTRATIONS, FACT_TOKENS, ENDING, PROMPT)


def encode_edit(
    tokenizer: Any, request: EditRequest, hparams: RetrievalHyperParams, demonstrations: Sequence[str]
) -> dict[str, list[int]]:
    """Return the data of an edit.

    The parts are encoded one by one, so that the text in front of a prompt can be put together for each prompt.
    """
    prompt = encode_text(tokenizer, request.prompt)
    # Some chat templates use the beginning-of-text token to begin a turn. The fact stands before such a token.
    question = encode_text(tokenizer, request.question)
    begins = tokenizer.bos_token_id is not None and question[:1] == [tokenizer.bos_token_id]
    joiner = request.joiner if request.question_span is None else None  # that of a chat stands before an answer only
    stated = sentence(tokenizer, request.question, request.target_new, joiner)
    fact = hparams.fact_template.replace(FACT, stated)
    return {
        BEGINNING: prompt[:1] if begins else [],
        DEMONSTRATIONS: _encode(tokenizer, "".join(demonstrations)),
        FACT_TOKENS: _encode(tokenizer, fact),
        ENDING: _encode(tokenizer, hparams.prompt_prefix),
        PROMPT: prompt,
    }


def join_context(edits: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the token ids of the text in front of a prompt.

    Args:
        edits: the data of the edits whose facts it has, the nearest one first; not empty. The nearest fact is last in
            the text. Demonstrations are those of the nearest edit.
    """
    nearest = edits[0]
    facts = [token for edit in reversed(edits) for token in edit[FACT_TOKENS]]
    return [*nearest[BEGINNING], *nearest[DEMONSTRATIONS], *facts, *nearest[ENDING]]


def without_beginning(edit: Mapping[str, Any]) -> list[int]:
    """Return the tokens of an edit's prompt as they follow a text: without the token that begins a text."""
    return list(edit[PROMPT][len(edit[BEGINNING]) :])


def sentence(tokenizer: Any, prompt: str, answer: str, joiner: str | None = None) -> str:
    """Return a prompt and its answer as one text, without a beginning-of-text token from a chat template."""
    return _plain(tokenizer, prompt) + separator(prompt, answer, joiner) + answer


def demonstration(hparams: RetrievalHyperParams, fact: str, prompted: str) -> str:
    """Return a demonstration: a fact, and a prompt with the answer that is right when the fact is.

    Args:
        hparams: the hyperparameters.
        fact: the fact.
        prompted: the prompt with its answer.
    """
    return f"{hparams.fact_template.replace(FACT, fact)}{hparams.prompt_prefix}{prompted}\n\n"


def _plain(tokenizer: Any, text: str) -> str:
    """Return a text without the beginning-of-text token at its start."""
    token = tokenizer.bos_token
    return text.removeprefix(token).lstrip() if token and text.startswith(token) else text


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a part of a text."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
