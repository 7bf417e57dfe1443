"""The sample facts that are shipped with this package; see README.md in this folder."""

from __future__ import annotations

import json
from pathlib import Path

from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem, read_multiple_choice
from easyedit_lifelong.data.request import Probe

FOLDER = Path(__file__).resolve().parent
COUNTERFACT = FOLDER / "counterfact.json"
ZSRE = FOLDER / "zsre.json"
RETENTION = FOLDER / "retention.json"
CAPABILITY = FOLDER / "capability.json"
RELATION_PROMPTS = FOLDER / "relation_prompts.json"
TEXT = FOLDER / "text.txt"


def retention_probes(path: Path | None = None) -> list[Probe]:
    """Return the default retention set: facts that no sample edit is about.

    Args:
        path: another file of the same format.
    """
    records = json.loads((path or RETENTION).read_text(encoding="utf-8"))
    return [Probe(record["prompt"], record["answer"]) for record in records]


def capability_items() -> list[MultipleChoiceItem]:
    """Return the default multiple-choice questions, which no sample edit is about."""
    return read_multiple_choice(CAPABILITY)
