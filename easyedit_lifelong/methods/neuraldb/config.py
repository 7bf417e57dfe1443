"""The hyperparameters of NeuralDB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams

AUTO = "auto"
"""The value of ``gamma`` that derives it from sample sentences."""


@dataclass(kw_only=True)
class NeuralDBHyperParams(LocateEditHyperParams):
    """Hyperparameters of NeuralDB (arXiv 2507.18028); see :class:`LocateEditHyperParams` for the others.

    ``mom2_*`` and ``stats_dir`` are read from MEMIT's files and not used, since no update is solved for.

    Attributes:
        gamma: γ, the cosine between the input of the projection and a key above which the key's edit answers. ``auto``
            derives it from sample sentences; see ``false_fire_rate``.
        false_fire_rate: with ``gamma: auto``, the share of sentences about other subjects in which some key of a table
            of about a hundred keys may answer; see :mod:`easyedit_lifelong.methods.neuraldb.auto_gamma`.
    """

    ALG_NAME: ClassVar[str] = "NeuralDB"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (*LocateEditHyperParams.ABOVE_ZERO, "false_fire_rate")
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        "rewrite_modules",
        "layer_module_tmp",
        "fact_token",
        "gamma",
        "false_fire_rate",
    )

    gamma: float | str = 0.65
    false_fire_rate: float = 0.01

    @property
    def writes_weights(self) -> bool:
        """Whether updates are added to the model's own weights: no, residuals are added to outputs."""
        return False

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        if not problems and isinstance(self.layers, list) and len(self.edited_layers) != 1:
            count = len(self.edited_layers)
            problems.append(f"layers: NeuralDB edits one block, {count} are named; name one, or set num_layers: 1")
        if isinstance(self.gamma, str) and self.gamma != AUTO:
            problems.append(f"gamma: {self.gamma!r} is neither a number nor auto")
        elif isinstance(self.gamma, float) and not 0 <= self.gamma < 1:
            problems.append(f"gamma: {self.gamma} is a cosine, so it must be at least 0 and below 1")
        if isinstance(self.false_fire_rate, float) and self.false_fire_rate >= 1:
            problems.append(f"false_fire_rate: {self.false_fire_rate} must be less than 1")
        return problems
