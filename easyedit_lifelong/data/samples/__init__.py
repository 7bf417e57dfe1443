"""The sample facts that come with this package; see the README beside them."""

from __future__ import annotations

import json
from pathlib import Path

from easyedit_lifelong.data.request import Probe

FOLDER = Path(__file__).resolve().parent
COUNTERFACT = FOLDER / "counterfact.json"
ZSRE = FOLDER / "zsre.json"
RETENTION = FOLDER / "retention.json"


def retention_probes(path: Path | None = None) -> list[Probe]:
    """Return held-out facts that no sample edit is about: the default retention set."""
    records = json.loads((path or RETENTION).read_text(encoding="utf-8"))
    return [Probe(record["prompt"], record["answer"]) for record in records]
