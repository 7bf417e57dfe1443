"""The probe: a prompt with its expected answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """A prompt that an edited model is evaluated on, and the expected answer."""

    prompt: str
    answer: str
