"""The joiner: what stands between a prompt and its answer, as requests and hyperparameters set it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from easyedit_lifelong.data.request import EditRequest

AUTO = "auto"
"""The value of ``joiner`` that lets the texts decide; see :func:`easyedit_lifelong.models.separator.separator`."""


def joiner_of(hparams: Any) -> str | None:
    """Return the joiner that hyperparameters set; None if the texts decide."""
    joiner = getattr(hparams, "joiner", AUTO)  # other packages' hyperparameters have no such field
    return None if joiner == AUTO else joiner


def with_joiner(requests: Iterable[EditRequest], joiner: str | None) -> list[EditRequest]:
    """Return requests, of which those without a joiner of their own get this one.

    Args:
        requests: the requests.
        joiner: the joiner; None if the texts decide.
    """
    if joiner is None:
        return list(requests)
    return [
        request if request.joiner is not None else dataclasses.replace(request, joiner=joiner) for request in requests
    ]


def joiners_by_prompt(requests: Iterable[EditRequest]) -> Mapping[str, str]:
    """Return the joiner of each prompt and paraphrase of the requests that set one."""
    return {
        prompt: request.joiner
        for request in requests
        if request.joiner is not None
        for prompt in (request.prompt, *request.rephrase_prompts)
    }
