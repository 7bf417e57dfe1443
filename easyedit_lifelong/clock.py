"""The time, as every file of results and edits says it."""

from __future__ import annotations

from datetime import datetime, timezone


def now() -> str:
    """Return the time, ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
