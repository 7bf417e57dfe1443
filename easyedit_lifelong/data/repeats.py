"""Requests of a dataset that edit a prompt more than once."""

from __future__ import annotations

from collections.abc import Iterable

from easyedit_lifelong.data.reading_notes import list_shortly
from easyedit_lifelong.data.request import EditRequest

_SHOWN = 5


def repeat_notes(name: object, requests: Iterable[EditRequest]) -> list[str]:
    """Return messages about prompts that several requests edit: with the same target, and with different ones.

    Scores count every request. So of a prompt with several targets, all requests but one fail at the end.

    Args:
        name: the dataset, for the messages.
        requests: the requests of a run, in order.
    """
    targets: dict[object, dict[str, int | str]] = {}
    repeats: list[str] = []
    for request in requests:
        first = targets.setdefault((request.prompt, request.context_turns), {})
        if request.target_new in first:
            repeats.append(f"{request.case_id} (as {first[request.target_new]})")
        else:
            first[request.target_new] = request.case_id
    several = [cases for cases in targets.values() if len(cases) > 1]
    messages = []
    if repeats:
        messages.append(
            f"{name}: requests with the prompt and target of an earlier one ({len(repeats)}): case "
            f"{list_shortly(repeats, _SHOWN)}. Each counts in the scores."
        )
    if several:
        shown = [" and ".join(f"{case} ({target!r})" for target, case in cases.items()) for cases in several]
        messages.append(
            f"{name}: prompts with several targets ({len(several)}): cases {list_shortly(shown, _SHOWN)}. "
            "Each request counts in the scores, so after the last edit all but one of a prompt fail."
        )
    return messages
