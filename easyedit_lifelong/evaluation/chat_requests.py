"""Requests in chat form: their prompts, paraphrases and probes are asked as the user's turn of a chat."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import DataError, HyperParameterError
from easyedit_lifelong.models.chat_form import ChatForm, Turn


@dataclass(frozen=True)
class ChatSettings:
    """How prompts are asked in a chat.

    Attributes:
        system: the system message; None for the template's default, which can be none.
    """

    system: str | None = None


def chat_settings(chat: bool, system: str | None) -> ChatSettings | None:
    """Return the settings of the chat form; None for prompts as they are.

    Args:
        chat: whether prompts are asked in chat form.
        system: the system message.

    Raises:
        HyperParameterError: there is a system message without the chat form.
    """
    if system is not None and not chat:
        raise HyperParameterError("system: a system message needs the chat form; also give --chat")
    return ChatSettings(system) if chat else None


def in_chat_form(requests: Iterable[EditRequest], tokenizer: Any, system: str | None = None) -> list[EditRequest]:
    """Return requests whose prompts are asked in a chat: each is the user's turn, in the tokenizer's chat template.

    This concerns the prompt, the paraphrases and all probes of a request. They follow the earlier turns that the
    request has in ``context_turns``. A request without a joiner gets the template's. A request in chat form stays as it
    is.

    Args:
        requests: the requests.
        tokenizer: the tokenizer of the model.
        system: the system message; None for the template's default, which can be none.

    Raises:
        DataError: the template refuses the system message, or the earlier turns of a request.
        ModelError: the tokenizer has no chat template.
    """
    forms: dict[tuple[Turn, ...], ChatForm] = {(): ChatForm(tokenizer, system)}
    converted = []
    for request in requests:
        if request.context_turns not in forms:
            try:
                forms[request.context_turns] = ChatForm(tokenizer, system, request.context_turns)
            except DataError as error:
                raise DataError(f"{request.where}, field 'context_turns': {error}") from error
        form = forms[request.context_turns]
        converted.append(request if request.question_span else _converted(request, form))
    return converted


def probes_in_chat_form(probes: Iterable[Probe], form: ChatForm) -> tuple[Probe, ...]:
    """Return probes whose prompts are asked in a chat."""
    return tuple(Probe(form.prompt(probe.prompt), probe.answer) for probe in probes)


def check_no_turns(requests: Iterable[EditRequest]) -> None:
    """Check that no request has earlier turns, which only the chat form uses.

    Raises:
        DataError: a request has some.
    """
    for request in requests:
        if request.context_turns:
            raise DataError(
                f"{request.where}, field 'context_turns': earlier turns of a chat need the chat form. Give --chat ("
                "'chat: true' in a YAML file; in Python, in_chat_form), or leave the field out."
            )


def _converted(request: EditRequest, form: ChatForm) -> EditRequest:
    """Return a request in chat form."""
    begin = len(form.head)
    return dataclasses.replace(
        request,
        prompt=form.prompt(request.prompt),
        rephrase_prompts=tuple(form.prompt(prompt) for prompt in request.rephrase_prompts),
        locality=_sets_in_chat_form(request.locality, form),
        portability=_sets_in_chat_form(request.portability, form),
        relation_specificity=probes_in_chat_form(request.relation_specificity, form),
        joiner=form.joiner if request.joiner is None else request.joiner,
        context_turns=(),
        question_span=(begin, begin + len(request.prompt.strip())),
    )


def _sets_in_chat_form(sets: Mapping[str, tuple[Probe, ...]], form: ChatForm) -> Mapping[str, tuple[Probe, ...]]:
    """Return sets of probes whose prompts are asked in a chat."""
    return MappingProxyType({name: probes_in_chat_form(probes, form) for name, probes in sets.items()})
