"""What a search tries for UltraEdit on one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.search_space import SearchSpace, SearchStage, alternatives
from easyedit_lifelong.methods.shared.layer_moves import layer_stages

_ETAS = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3)


def _stages(hparams: Any, blocks: Sequence[int] | None) -> list[SearchStage]:
    """Return the stages: η, the edited modules, and η again, since the best η depends on them."""
    return [alternatives("η", "lr", _ETAS), *layer_stages(blocks), alternatives("η there", "lr", _ETAS)]


SEARCH_SPACE = SearchSpace(_stages)
"""η and the blocks of the edited modules of UltraEdit."""
