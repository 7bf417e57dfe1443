"""The ``.npz`` files that MEMIT and EasyEdit keep second moments in, read and written.

Such a file is what EasyEdit's ``CombinedStat(mom2=SecondMoment())`` saves: ``mom2.constructor``, ``mom2.count``,
``mom2.mom2`` (the *sum* of k kᵀ, not the mean) and ``sample_size``. Nothing pickled is ever loaded.
"""

from __future__ import annotations

import contextlib
import os
import time
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
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_ROWS = 128
_LITTER_SECONDS = 86400
_TOLERANCE = 1e-3


def read_moments(path: Path, d: int | None = None, sample_size: int | None = None) -> SecondMoment:
    """Read a file of second moments, ours or a published one.

    Args:
        path: the ``.npz`` file.
        d: key size that the module has, if it is known.
        sample_size: what the file must say was sampled, if given; EasyEdit checks this too.

    Returns:
        The mean, in float32. The file's matrix is held in memory once (twice if it isn't float32).

    Raises:
        CovarianceError: the file is truncated or foreign, or its matrix isn't one of second
            moments of this size; the message names the file.
    """
    matrix, count, _ = read_sum(path, d, sample_size)
    return SecondMoment(_mean(path, matrix, count), count, str(path))


def read_sum(path: Path, d: int | None = None, sample_size: int | None = None) -> tuple[np.ndarray, int, int | None]:
    """Read what a file holds: the sum, the count of keys, and of samples if it says so. See :func:`read_moments`."""
    with _opened(path) as archive:
        for key in ("mom2.count", "mom2.mom2"):
            if key not in archive.files:
                has = ", ".join(archive.files) or "nothing"
                raise CovarianceError(f"{path}: holds no second moments (it lacks {key!r}; it has {has})")
        count, stated = _whole(path, archive, "mom2.count"), _whole(path, archive, "sample_size")
        if count is None or count < 1:
            raise CovarianceError(f"{path}: 'mom2.count' is {count}; it must be a number greater than 0")
        if sample_size is not None and stated is not None and stated != sample_size:
            raise CovarianceError(
                f"{path}: holds {stated} samples, but {sample_size} were asked for. "
                f"Ask for {stated}, name another folder, or delete the file."
            )
        matrix = archive["mom2.mom2"]
    if matrix.ndim != 2 or matrix.shape != ((d, d) if d is not None else (len(matrix), len(matrix))):
        shape = "x".join(map(str, matrix.shape)) or "a number"
        what = "not square" if d is None else f"but the module's keys have size {d}: another model's?"
        raise CovarianceError(f"{path}: its matrix is {shape}, {what}")
    if not np.issubdtype(matrix.dtype, np.floating):
        raise CovarianceError(f"{path}: its matrix holds {matrix.dtype}, not floating-point numbers")
    return matrix, count, stated


def write_moments(
    path: Path,
    total: torch.Tensor,
    count: int,
    sample_size: int,
    dtype: str,
    before: Callable[[int], object] | None = None,
) -> None:
    """Write a file that EasyEdit's ``layer_stats`` loads.

    The file appears whole or not at all, and never replaces another.

    Args:
        path: where it goes.
        total: sum of k kᵀ, shape ``(d, d)``.
        count: keys summed.
        sample_size: documents sampled.
        dtype: of the stored sum: ``float32`` or ``float64``.
        before: called with the file's size in bytes before it appears.

    Raises:
        CovarianceError: the sum doesn't fit the dtype, or the file can't be written.
        FileExistsError: there is such a file already.
    """
    matrix = total.to(getattr(torch, dtype)).numpy()
    if not np.isfinite(matrix.sum(dtype=np.float64)):
        raise CovarianceError(f"{path}: the sums don't fit {dtype}; use float32 or float64")
    contents = {
        "mom2.constructor": np.array(CONSTRUCTOR),
        "mom2.count": np.array(count),
        "mom2.mom2": matrix,
        "sample_size": np.array(sample_size),
    }
    with replacing(path, keep=True) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **contents)  # type: ignore[arg-type]  # its stub takes the keys for its own flag
        if path.exists():
            raise FileExistsError(str(path))  # before its sidecar is touched
        if before is not None:
            before(temporary.stat().st_size)


@contextlib.contextmanager
def replacing(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to fill inside, which becomes ``path`` in one step after.

    Args:
        path: the file to appear.
        keep: never replace a file that is there.

    Raises:
        CovarianceError: it can't be written.
        FileExistsError: ``keep``, and it is there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path, keep=keep) as temporary:
            yield temporary
    except FileExistsError:
        raise
    except OSError as error:
        raise CovarianceError(f"{path}: can't be written: {error.strerror}. Name another folder.") from error


def check_writable(folder: Path) -> None:
    """Make a folder, and check that files can be put into it.

    Raises:
        CovarianceError: they can't.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CovarianceError(f"{folder}: can't be made: {error.strerror}. Name another folder.") from error
    if not os.access(folder, os.W_OK):
        raise CovarianceError(f"{folder}: can't be written to. Name another folder.")
    for litter in folder.glob(".writing-*"):  # of processes that were killed; a live one takes minutes at most
        with contextlib.suppress(OSError):
            if time.time() - litter.stat().st_mtime > _LITTER_SECONDS:
                litter.unlink()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CovarianceError(f"{path}: is no .npz file of second moments")
        with archive:
            yield archive
    except _BROKEN as error:
        if isinstance(error, CovarianceError):
            raise
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CovarianceError(
            f"{path}: is truncated or no .npz file of second moments ({what}). Delete it or fetch it anew."
        ) from error


def _whole(path: Path, archive: Any, key: str) -> int | None:
    """Read a whole number; None where there is none (EasyEdit writes a special NaN for "not given")."""
    if key not in archive.files:
        return None
    value = archive[key]
    if value.shape != () or value.dtype.kind not in "iuf":
        raise CovarianceError(f"{path}: {key!r} is not a number")
    number = float(value)
    return int(number) if np.isfinite(number) else None


def _mean(path: Path, matrix: np.ndarray, count: int) -> torch.Tensor:
    """Divide by the count, checking that the matrix is finite, symmetric and has no negative diagonal."""
    total = torch.from_numpy(matrix)
    diagonal = total.diagonal().double()
    if not all(bool(torch.isfinite(rows.double().sum())) for rows in total.split(_ROWS)):
        raise CovarianceError(f"{path}: its matrix holds NaN or infinity")
    if bool((diagonal < 0).any()) or float(diagonal.sum()) <= 0:
        raise CovarianceError(f"{path}: is no matrix of second moments: its diagonal isn't positive")
    scale = diagonal.sqrt()
    for start in range(0, len(total), _ROWS):
        rows, columns = total[start : start + _ROWS], total[:, start : start + _ROWS].t()
        # Entry (i, j) of second moments is at most sqrt(ii * jj): the scale of its rounding.
        allowed = _TOLERANCE * scale[start : start + _ROWS, None] * scale[None, :] + 1e-30
        if bool(((rows.double() - columns.double()).abs() > allowed).any()):
            raise CovarianceError(f"{path}: is no matrix of second moments: it isn't symmetric")
    return mean_of(total, count)


def mean_of(stored: torch.Tensor, count: int) -> torch.Tensor:
    """Divide a stored sum by its count, in float64, giving float32; a float32 sum becomes its own mean, in place."""
    mean = stored if stored.dtype == torch.float32 else torch.empty(stored.shape, dtype=torch.float32)
    for start in range(0, len(stored), _ROWS):
        mean[start : start + _ROWS] = stored[start : start + _ROWS].double() / count
    return mean
