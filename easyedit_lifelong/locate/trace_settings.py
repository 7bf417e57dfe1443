"""How facts are traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from easyedit_lifelong.locate.restorations import KINDS, MODULES, Kind, Module

NOISE_FACTOR = 3.0
"""The noise's standard deviation, in standard deviations of the embeddings of subjects' tokens (ROME)."""


@dataclass(frozen=True)
class TraceSettings:
    """How facts are traced.

    Attributes:
        corruption: ``noise``, or ``subjects``: the embeddings of other subjects with as many tokens.
        noise: standard deviation of the noise; None for ``noise_factor`` times that of the embeddings of all subjects.
        noise_factor: see ``noise``.
        samples: number of corrupted runs.
        seed: seed of the noise.
        kinds: what to restore.
        severed: the modules to freeze in runs with severed paths.
        window: number of blocks whose MLPs or attention are restored together.
        any_answer: trace the probability of the given answer, whether or not the model knows it.
    """

    corruption: Literal["noise", "subjects"] = "noise"
    noise: float | None = None
    noise_factor: float = NOISE_FACTOR
    samples: int = 10
    seed: int = 1
    kinds: tuple[Kind, ...] = KINDS
    severed: tuple[Module, ...] = MODULES
    window: int = 10
    any_answer: bool = False
