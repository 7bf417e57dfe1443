"""Prompts that a dataset edits more than once, and prompts that it edits although their answers should not change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from easyedit_lifelong.data.holdout import normalize_text
from easyedit_lifelong.data.reading_notes import list_shortly
from easyedit_lifelong.data.request import EditRequest, Probe

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


def edited_probe_notes(name: object, requests: Sequence[EditRequest], retention: Iterable[Probe]) -> list[str]:
    """Return messages about locality prompts and held-out facts whose prompt a request edits to another answer.

    Prompts are compared without regard to capitals and repeated spaces.

    Args:
        name: the dataset, for the messages.
        requests: the requests of a run.
        retention: its held-out facts.
    """
    edits: dict[str, dict[str, int | str]] = {}
    for request in requests:
        edits.setdefault(normalize_text(request.prompt), {}).setdefault(request.target_new, request.case_id)

    def editor(probe: Probe) -> int | str | None:
        targets = edits.get(normalize_text(probe.prompt), {})
        return next((case for target, case in targets.items() if target.strip() != probe.answer.strip()), None)

    locality = [
        f"{request.case_id} (by {case})"
        for request in requests
        for probes in request.locality.values()
        for probe in probes
        if (case := editor(probe)) is not None
    ]
    held_out = [f"{number} (by {case})" for number, fact in enumerate(retention) if (case := editor(fact)) is not None]
    messages = []
    if locality:
        messages.append(
            f"{name}: locality prompts that another request edits ({len(locality)}): of case "
            f"{list_shortly(locality, _SHOWN)}. Edits that succeed there lower the locality."
        )
    if held_out:
        messages.append(
            f"{name}: held-out facts that a request edits ({len(held_out)}): fact {list_shortly(held_out, _SHOWN)}. "
            "Edits that succeed there lower TRR and ARR. Give held-out facts without them (--retention)."
        )
    return messages
