"""Give objects other attributes for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()


@contextlib.contextmanager
def overridden(name: str, values: Mapping[Any, Any]) -> Iterator[None]:
    """Set an attribute of some objects inside, and put back after what was there before.

    Only the objects' own ``__dict__`` is read and written. So a module gets a ``forward`` beside that of its class, and
    a ``forward`` that it had already (accelerate's moves modules between devices) comes back.

    Args:
        name: of the attribute.
        values: the value for each object.
    """
    before = {owner: vars(owner).get(name, _ABSENT) for owner in values}
    for owner, value in values.items():
        vars(owner)[name] = value
    try:
        yield
    finally:
        for owner, value in before.items():
            if value is _ABSENT:
                del vars(owner)[name]
            else:
                vars(owner)[name] = value
