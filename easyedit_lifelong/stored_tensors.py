"""Tensors that are computed once and stored: a file of another identity, or a damaged one, counts as absent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

LOG = logging.getLogger(__name__)


def read_stored_tensors(file: Path, names: Iterable[str], identity: Mapping[str, str]) -> dict[str, Tensor] | None:
    """Return the named tensors of a safetensors file; None if it doesn't exist, has another identity or is damaged.

    Args:
        file: the file.
        names: the names of the tensors.
        identity: all that the tensors depend on, as the file's metadata have it.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as content:
            if content.metadata() != dict(identity):
                LOG.info("%s: is of other weights, texts or settings; it is replaced", file)
                return None
            return {name: content.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        LOG.warning("%s: is damaged (%s); it is replaced", file, error)
        return None
