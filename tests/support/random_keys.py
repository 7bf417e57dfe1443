"""Random keys of an edited layer, and second moments of random keys, in float64."""

from __future__ import annotations

import torch


def random_keys(size: int, count: int, generator: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    """Return keys as columns, shape ``(size, count)``."""
    return torch.randn(size, count, generator=generator, dtype=torch.float64) * scale


def random_moment(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a second moment of keys with full rank, shape ``(size, size)``."""
    keys = torch.randn(3 * size, size, generator=generator, dtype=torch.float64)
    return keys.t() @ keys / len(keys)
