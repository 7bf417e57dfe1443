"""Read and write the ``.npz`` files in which MEMIT and EasyEdit store second moments.

The format is that of EasyEdit's ``CombinedStat(mom2=SecondMoment())``, with the arrays ``mom2.constructor``,
``mom2.count``, ``mom2.mom2`` (the *sum* of k kᵀ, not the mean) and ``sample_size``. Pickled data is never loaded.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easyedit_lifelong import atomic
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.errors import CovarianceError

CONSTRUCTOR = "easyeditor.util.runningstats.SecondMoment()"
_READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    OverflowError,
    MemoryError,
    RuntimeError,  # an encrypted archive
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)
_MAX_COUNT = 2**63
_CHUNK_ROWS = 128
_TOLERANCE = 1e-3


def read_moments(path: Path, d: int | None = None, sample_size: int | None = None) -> SecondMoment:
    """Read a file of second moments, of this package or a published one.

    Args:
        path: the ``.npz`` file.
        d: the module's key size, if known.
        sample_size: the number of samples that the file must state, if given. EasyEdit checks this, too.

    Returns:
        The second moments in float32. Memory holds the file's matrix once (twice if it isn't float32).

    Raises:
        CovarianceError: the file is truncated or has another format, or its matrix has another size or can't be second
            moments; the message names the file.
    """
    matrix, count, _ = read_sum(path, d, sample_size)
    return SecondMoment(_check_and_average(path, matrix, count), count, str(path))


def read_sum(path: Path, d: int | None = None, sample_size: int | None = None) -> tuple[np.ndarray, int, int | None]:
    """Read the sum of k kᵀ, the number of keys, and the number of samples if the file states it.

    For arguments and errors, see :func:`read_moments`. The sum has shape ``(d, d)``.
    """
    with _open_npz(path) as archive:
        for key in ("mom2.count", "mom2.mom2"):
            if key not in archive.files:
                names = ", ".join(archive.files) or "nothing"
                raise CovarianceError(f"{path}: holds no second moments (it lacks {key!r}; it has {names})")
        count = _read_integer(path, archive, "mom2.count")
        stated = _read_integer(path, archive, "sample_size")
        if count is None or not 1 <= count < _MAX_COUNT:
            raise CovarianceError(f"{path}: 'mom2.count' is {count}; it must be a number greater than 0, below 2^63")
        if sample_size is not None and stated is not None and stated != sample_size:
            raise CovarianceError(
                f"{path}: holds {stated} samples, but {sample_size} were requested. "
                f"Request {stated}, name another folder, or delete the file."
            )
        _check_size(archive, "mom2.mom2.npy")
        matrix = archive["mom2.mom2"]
    if matrix.ndim != 2 or matrix.shape != ((d, d) if d is not None else (len(matrix), len(matrix))):
        shape = "x".join(map(str, matrix.shape)) or "a number"
        problem = "not square" if d is None else f"but the module's keys have size {d}. Is it another model's file?"
        raise CovarianceError(f"{path}: its matrix is {shape}, {problem}")
    if not np.issubdtype(matrix.dtype, np.floating):
        raise CovarianceError(f"{path}: its matrix holds {matrix.dtype}, not floating-point numbers")
    if matrix.dtype.itemsize > np.dtype(np.float64).itemsize:
        raise CovarianceError(f"{path}: its matrix holds {matrix.dtype}; store it as float32 or float64")
    return matrix.astype(matrix.dtype.newbyteorder("="), copy=False), count, stated


def write_moments(
    path: Path,
    total: torch.Tensor,
    count: int,
    sample_size: int,
    dtype: str,
    before: Callable[[int], object] | None = None,
) -> None:
    """Write a file that EasyEdit's ``layer_stats`` loads.

    The file is written completely or not at all, and never replaces another one.

    Args:
        path: the file.
        total: sum of k kᵀ, shape ``(d, d)``.
        count: number of keys in the sum.
        sample_size: number of documents that were read.
        dtype: dtype of the stored sum, ``float32`` or ``float64``.
        before: called with the size in bytes, when the file is written but doesn't have its name yet.

    Raises:
        CovarianceError: the sum doesn't fit the dtype, or the file can't be written.
        FileExistsError: the file exists already.
    """
    matrix = total.to(getattr(torch, dtype)).numpy()
    if not np.isfinite(matrix.sum(dtype=np.float64)):
        raise CovarianceError(f"{path}: the sums don't fit {dtype}; use float32 or float64")
    arrays = {
        "mom2.constructor": np.array(CONSTRUCTOR),
        "mom2.count": np.array(count),
        "mom2.mom2": matrix,
        "sample_size": np.array(sample_size),
    }
    with writing_file(path, keep=True) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub expects its flag allow_pickle
        if path.exists():
            raise FileExistsError(str(path))  # checked before the sidecar is written
        if before is not None:
            before(temporary.stat().st_size)


@contextlib.contextmanager
def writing_file(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary file next to ``path``. At the end of the context, it is renamed to ``path`` in one step.

    Args:
        path: the file to write.
        keep: never replace an existing file.

    Raises:
        CovarianceError: the file can't be written.
        FileExistsError: with ``keep``, the file exists already.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_file(path, keep=keep) as temporary:
            yield temporary
    except FileExistsError:
        raise
    except OSError as error:
        raise CovarianceError(f"{path}: can't be written: {error.strerror}. Name another folder.") from error


def check_writable(folder: Path) -> None:
    """Create a folder if it doesn't exist, check that it is writable, and delete old temporary files in it.

    Raises:
        CovarianceError: the folder can't be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CovarianceError(f"{folder}: can't be made: {error.strerror}. Name another folder.") from error
    if not os.access(folder, os.W_OK):
        raise CovarianceError(f"{folder}: can't be written to. Name another folder.")
    atomic.delete_leftovers(folder)


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    """Open an ``.npz`` file in this context; turn errors of reading it into :class:`CovarianceError`."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CovarianceError(f"{path}: is no .npz file of second moments")
        with archive:
            yield archive
    except _READ_ERRORS as error:
        if isinstance(error, CovarianceError):
            raise
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CovarianceError(
            f"{path}: is truncated or no .npz file of second moments ({cause}). Delete it or download it again."
        ) from error


def _check_size(archive: Any, member: str) -> None:
    """Check that a member of an archive is as large as its header says, before memory is allocated for it.

    Raises:
        ValueError: it is smaller.
    """
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if math.prod(shape) * dtype.itemsize > archive.zip.getinfo(member).file_size:
        raise ValueError("its header claims more numbers than it holds")


def _read_integer(path: Path, archive: Any, key: str) -> int | None:
    """Return an integer of the file; None if it is missing or, as EasyEdit writes a missing number, NaN."""
    if key not in archive.files:
        return None
    value = archive[key]
    if value.shape != () or value.dtype.kind not in "iuf":
        raise CovarianceError(f"{path}: {key!r} is not a number")
    number = float(value)
    return int(number) if np.isfinite(number) else None


def _check_and_average(path: Path, matrix: np.ndarray, count: int) -> torch.Tensor:
    """Check that a sum of k kᵀ is finite, symmetric and has a nonnegative diagonal; return it divided by the count."""
    total = torch.from_numpy(matrix)
    diagonal = total.diagonal().double()
    if not all(bool(torch.isfinite(rows.double().sum())) for rows in total.split(_CHUNK_ROWS)):
        raise CovarianceError(f"{path}: its matrix holds NaN or infinity")
    if bool((diagonal < 0).any()) or float(diagonal.sum()) <= 0:
        raise CovarianceError(f"{path}: is no matrix of second moments: its diagonal isn't positive")
    scale = diagonal.sqrt()
    for start in range(0, len(total), _CHUNK_ROWS):
        rows, columns = total[start : start + _CHUNK_ROWS], total[:, start : start + _CHUNK_ROWS].t()
        # |C[i, j]| is at most sqrt(C[i, i] * C[j, j]), and rounding errors are relative to that.
        allowed = _TOLERANCE * scale[start : start + _CHUNK_ROWS, None] * scale[None, :] + 1e-30
        if bool(((rows.double() - columns.double()).abs() > allowed).any()):
            raise CovarianceError(f"{path}: is no matrix of second moments: it isn't symmetric")
    return mean_of(total, count)


def mean_of(stored: torch.Tensor, count: int) -> torch.Tensor:
    """Return a stored sum divided by the count: divided in float64, rounded to float32.

    A float32 sum is overwritten with the result, to save memory.
    """
    mean = stored if stored.dtype == torch.float32 else torch.empty(stored.shape, dtype=torch.float32)
    for start in range(0, len(stored), _CHUNK_ROWS):
        mean[start : start + _CHUNK_ROWS] = stored[start : start + _CHUNK_ROWS].double() / count
    return mean
