"""What the reading of a dataset finds besides requests and errors, and reports once at its end."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from easyedit_lifelong.errors import did_you_mean

LOG = logging.getLogger(__name__)

_SHOWN = 10
_SIMILAR = 0.8
"""The least similarity at which an unknown field is taken for a misspelt one. ``rephrase_prompts`` and
``rephrase_prompt`` have 0.97."""

_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected", default=None)
"""The list of the innermost :func:`collected_messages`."""


@contextlib.contextmanager
def collected_messages() -> Iterator[list[str]]:
    """Return a context that collects the messages of all notes that are logged within it."""
    messages: list[str] = []
    token = _COLLECTED.set(messages)
    try:
        yield messages
    finally:
        _COLLECTED.reset(token)


class ReadingNotes:
    """Collects notes about the records of a dataset.

    Args:
        name: the dataset, for messages.

    Attributes:
        dropped: the probes that were left out, as ``NAME, record 3, field 'locality_ground_truth'``.
        repeated_keys: how many objects of the file have a key more than once, by key.
    """

    def __init__(self, name: object) -> None:
        self.name = str(name)
        self.dropped: list[str] = []
        self.repeated_keys: Counter[str] = Counter()
        self._misspelt: Counter[tuple[str, str]] = Counter()
        self._unseen: dict[str, str] | None = None
        self._columns: set[str] = set()
        self._similar: dict[tuple[str, frozenset[str]], str | None] = {}

    def check_names(self, record: Mapping[Any, Any], known: Iterable[str]) -> None:
        """Note unknown fields of a record whose names resemble those of known fields that it doesn't have."""
        known = frozenset(known)
        for name in record:
            if isinstance(name, str) and name not in known:
                meant = self._similar_name(name, known)
                if meant is not None and meant not in record:
                    self._misspelt[name, meant] += 1

    def check_columns(self, record: Mapping[Any, Any], columns: Mapping[str, str]) -> None:
        """Note columns that no record has.

        Args:
            record: a record.
            columns: where each column is named, for messages. A name's dots lead into nested values.
        """
        if self._unseen is None:
            self._unseen = dict(columns)
        if not self._unseen:
            return
        for name in [name for name in self._unseen if name in record or name.split(".")[0] in record]:
            del self._unseen[name]
        if self._unseen:
            self._columns.update(name for name in record if isinstance(name, str))

    def messages(self) -> list[str]:
        """Return a message for each kind of notes, and for each misspelt field."""
        messages = []
        if self.dropped:
            places = list_shortly([place.removeprefix(f"{self.name}, ") for place in self.dropped], _SHOWN)
            messages.append(f"probes without prompt or answer are left out ({len(self.dropped)}): {places}")
        unseen = self._unseen or {}
        messages += [
            f"no record has the column {name!r} ({place}).{did_you_mean(name, self._columns)}"
            for name, place in unseen.items()
        ]
        messages += [
            f"the field {name!r} is unknown and isn't read (records with it: {count}). Did you mean {meant!r}?"
            for (name, meant), count in self._misspelt.items()
            if meant not in unseen
        ]
        if self.repeated_keys:
            keys = list_shortly([repr(key) for key in self.repeated_keys], _SHOWN)
            messages.append(f"keys that an object has more than once, of which the last value counts: {keys}")
        return [f"{self.name}: {message}" for message in messages]

    def log(self) -> None:
        """Log the messages as warnings, and give them to :func:`collected_messages`."""
        messages = self.messages()
        for message in messages:
            LOG.warning("%s", message)
        if (collected := _COLLECTED.get()) is not None:
            collected += messages

    def _similar_name(self, name: str, known: frozenset[str]) -> str | None:
        """Return the known name that resembles this one, if there is one."""
        if (name, known) not in self._similar:
            matches = difflib.get_close_matches(name.casefold(), sorted(known), n=1, cutoff=_SIMILAR)
            self._similar[name, known] = matches[0] if matches else None
        return self._similar[name, known]


def list_shortly(items: list[str], limit: int) -> str:
    """Return items as text, only the first ``limit`` of them."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more
