"""What a search tries for GRACE with keys at the prompt's end. GRACE by subjects is calibrated by other steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.search_space import SearchSpace, SearchStage, multiples
from easyedit_lifelong.methods.shared.layer_moves import layer_stages


def _stages(hparams: Any, blocks: Sequence[int] | None) -> list[SearchStage]:
    """Return the stages: the edited layer, and the radius of keys: powers of ten, then values between them."""
    return [
        *layer_stages(blocks),
        multiples("radius", "eps", (0.1, 10, 100)),
        multiples("radius, nearby", "eps", (0.3, 3)),
    ]


SEARCH_SPACE = SearchSpace(_stages)
"""Layer and radius of GRACE."""
