"""Numbers of bytes and of seconds as text."""

from __future__ import annotations

_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def byte_text(number: float) -> str:
    """Return a number of bytes as text, such as ``1.42 GB`` (10⁹ bytes)."""
    unit = next((unit for unit in _UNITS if number < 999.5 * _UNITS[unit]), "TB")
    return f"{number / _UNITS[unit]:.3g} {unit}"


def duration_text(seconds: float) -> str:
    """Return a duration as text, such as ``3 min 07 s``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
