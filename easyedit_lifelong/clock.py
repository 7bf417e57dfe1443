"""The timestamp format of all result files and edits folders."""

from __future__ import annotations

from datetime import datetime, timezone


def now() -> str:
    """Return the current time in UTC as ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
