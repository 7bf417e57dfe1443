"""The chat form of prompts: the user's turn of a chat, in a tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of

Turn = tuple[str, str]
"""An earlier turn of a chat: its role (``user``, ``assistant``) and its content."""

_QUESTION, _ANSWER = "\ue000question\ue000", "\ue000answer\ue000"
"""Texts that no template contains. They show where a template puts a question and an answer."""


class ChatForm:
    """Asks prompts as the user's turn of a chat, which the assistant is about to answer.

    The texts are those of ``apply_chat_template(…, add_generation_prompt=True)``.

    Args:
        tokenizer: the tokenizer.
        system: the system message; None for the template's default, which can be none.
        turns: earlier turns, the first one first.

    Attributes:
        head: the text before the user's words.
        tail: the text after the user's words, up to the answer.
        joiner: what the template puts between ``tail`` and an answer: nothing, or white space.

    Raises:
        ModelError: the tokenizer has no chat template, or the template does not show the user's words.
        DataError: the template refuses the system message or the earlier turns.
    """

    def __init__(self, tokenizer: Any, system: str | None = None, turns: Sequence[Turn] = ()) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template, so prompts can't be asked in chat form. Leave the chat form out, "
                "or choose a model that was trained on chats."
            )
        first = [] if system is None else [("system", system)]
        messages = [{"role": role, "content": content} for role, content in [*first, *turns, ("user", _QUESTION)]]
        text = _rendered(tokenizer, messages, answered=False)
        self.head, found, self.tail = text.rpartition(_QUESTION)
        if not found or _QUESTION in self.head:
            raise ModelError("the tokenizer's chat template does not contain the user's words once")
        answered = _rendered(tokenizer, [*messages, {"role": "assistant", "content": _ANSWER}], answered=True)
        before_answer = answered.removeprefix(text).partition(_ANSWER)[0]
        self.joiner = "" if before_answer.strip() else before_answer

    def prompt(self, question: str) -> str:
        """Return the text that asks a question: up to the place where the assistant's answer begins."""
        return f"{self.head}{question.strip()}{self.tail}"


def _rendered(tokenizer: Any, messages: Sequence[dict[str, str]], *, answered: bool) -> str:
    """Return the text of a chat.

    Args:
        tokenizer: the tokenizer.
        messages: the turns.
        answered: whether the last turn is the assistant's answer.

    Raises:
        DataError: the template refuses the turns.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answered))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"the tokenizer's chat template refuses a chat of the roles {roles}: {error}") from error


def check_can_chat(model: Any) -> None:
    """Check that a model continues texts, as chats need it.

    Raises:
        ModelError: it is an encoder-decoder or a classifier.
    """
    if (kind := kind_of(model)) is not ModelKind.CAUSAL:
        raise ModelError(f"the chat form needs a causal language model; {type(model).__name__} is a {kind.value}")
