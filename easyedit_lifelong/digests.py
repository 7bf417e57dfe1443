"""Digests of files, by which damage is found."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CHUNK = 1 << 22

_LARGE_CHUNK = 1 << 26
"""Bytes of a file that one thread digests."""

_MAX_THREADS = 8


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: the file can't be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def chunked_digest(path: Path) -> str:
    """Return the SHA-256 of the SHA-256 of all chunks of 64 MiB of a file, which several threads compute.

    Raises:
        OSError: the file can't be read.
    """
    size = path.stat().st_size
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda begin: _chunk_digest(path, begin), range(0, size, _LARGE_CHUNK))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _chunk_digest(path: Path, begin: int) -> bytes:
    """Return the SHA-256 of the large chunk of a file that begins at a byte."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        remaining = _LARGE_CHUNK
        while remaining and (chunk := file.read(min(_CHUNK, remaining))):
            digest.update(chunk)
            remaining -= len(chunk)
    return digest.digest()
