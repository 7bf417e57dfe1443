"""What a search tries for AlphaEdit on one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.locate_edit.search_stages import null_space_stages, prepare_moments, target_stages
from easyedit_lifelong.methods.search_space import SearchSpace, SearchStage
from easyedit_lifelong.methods.shared.layer_moves import layer_count_stage, layer_stages


def _stages(hparams: Any, blocks: Sequence[int] | None) -> list[SearchStage]:
    """Return the stages: the edited blocks, the target vectors, the null space."""
    return [*layer_stages(blocks), layer_count_stage((1, 3, 8)), *target_stages(), *null_space_stages()]


SEARCH_SPACE = SearchSpace(_stages, prepare_moments)
"""Blocks, steps of target vectors, null space and penalty of AlphaEdit."""
