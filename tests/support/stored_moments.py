"""Files of second moments as others publish them, for the tiny Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.second_moments import MODULES

MODULE = MODULES["llama"].format(1)
KEY_SIZE = 48


def publish_moments(path: Path, samples: int = 100000, key_size: int = KEY_SIZE) -> Path:
    """Write a file of second moments without a sidecar, as MEMIT's authors publish them."""
    keys = np.random.default_rng(0).standard_normal((400, key_size)).astype(np.float32)
    contents = {"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": 400, "mom2.mom2": keys.T @ keys}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **contents, sample_size=samples)
    return path


def only_moment(found: dict[str, Any]) -> Any:
    """Return the second moments of the only module."""
    (moment,) = found.values()
    return moment
