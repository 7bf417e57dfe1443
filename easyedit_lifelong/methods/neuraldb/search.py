"""What a search tries for NeuralDB on one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.locate_edit.search_stages import target_stages
from easyedit_lifelong.methods.neuraldb.config import AUTO
from easyedit_lifelong.methods.search_space import SearchSpace, SearchStage, alternatives
from easyedit_lifelong.methods.shared.layer_moves import layer_stages

_GAMMAS = (0.5, 0.6, 0.7, 0.8, 0.9, AUTO)


def _stages(hparams: Any, blocks: Sequence[int] | None) -> list[SearchStage]:
    """Return the stages: the edited block, the target vectors, γ."""
    return [*layer_stages(blocks), *target_stages(), alternatives("gate", "gamma", _GAMMAS)]


SEARCH_SPACE = SearchSpace(_stages)
"""Block, target vectors and gate γ of NeuralDB."""
