"""What a search tries for the native ROME on one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.locate_edit.search_stages import prepare_moments, target_stages
from easyedit_lifelong.methods.search_space import SearchSpace, SearchStage, alternatives, multiples
from easyedit_lifelong.methods.shared.layer_moves import layer_stages


def _stages(hparams: Any, blocks: Sequence[int] | None) -> list[SearchStage]:
    """Return the stages: the edited block, the target vectors, and whether u = C⁻¹k. ROME's update has no weight λ."""
    return [
        *layer_stages(blocks),
        *target_stages(),
        multiples("weight decay", "v_weight_decay", (10, 100)),
        alternatives("second moments", "mom2_adjustment", [not hparams.mom2_adjustment]),
    ]


SEARCH_SPACE = SearchSpace(_stages, prepare_moments)
"""Block, target vectors and use of second moments of ROME."""
