"""What a folder's edits are whitened by, in a file of its own; and the digests that hold such files together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from easyedit_lifelong.atomic import replacing
from easyedit_lifelong.errors import RunError

WHITENING = "whitening.safetensors"

_NAME = "whitening"


def save_whitening(folder: Path, whitening: Tensor | None) -> str | None:
    """Write a whitening; return its digest, or None if there is none to write.

    Raises:
        OSError: it can't be written.
    """
    if whitening is None:
        return None
    tensors = {_NAME: whitening.cpu().contiguous()}
    with replacing(folder / WHITENING) as temporary:
        temporary.write_bytes(to_bytes(tensors))
    return chained("", _NAME, tensors)


def load_whitening(folder: Path, digest: object) -> Tensor:
    """Return the whitening that has this digest.

    Raises:
        RunError: there is none, or another; the message names the file.
    """
    path, whole = folder / WHITENING, f"The state in {folder} isn't whole."
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {_NAME: file.get_tensor(_NAME)}
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: can't be read: {error}. {whole}") from error
    if chained("", _NAME, tensors) != digest:
        raise RunError(f"{path}: has been changed, or is another run's. {whole}")
    return tensors[_NAME]


def chained(before: str, entry: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of an entry and its tensors, and of all that was digested before them."""
    digest = hashlib.sha256(f"{before}\n{entry}\n".encode())
    for tensor in tensors.values():
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
