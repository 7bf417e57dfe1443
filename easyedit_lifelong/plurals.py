"""Numbers of things in messages, with the noun in the singular or the plural."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 edit``, ``2 edits``.

    Args:
        number: the number.
        noun: the noun in the singular.
        plural: its plural; by default, the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
