"""Files of second moments that are made of other files: merged ones, and stand-ins for EasyEdit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easyedit_lifelong.covariance.files import model_folders, moments_file
from easyedit_lifelong.covariance.identity import read_sidecar, sidecar_of, write_fields
from easyedit_lifelong.covariance.job import Job
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.npz import read_moments, read_sum, write_moments
from easyedit_lifelong.errors import CovarianceError

_SAME = ("fingerprint", "module", "key_size")


def merge_moments(files: Sequence[str | Path], out: str | Path) -> SecondMoment:
    """Merge one module's second moments of several corpora, collected apart, into one file.

    Sums and counts add up, so it is as if the corpora had been read in one go. That they don't overlap is
    the caller's affair, except that the same file or corpus twice is refused.

    Args:
        files: two or more ``.npz`` files of ours, of the same weights and module.
        out: the ``.npz`` file to write; it must not be there.

    Returns:
        What was written.

    Raises:
        CovarianceError: files can't be read, aren't of the same weights and module, or hold the same text;
            or ``out`` is there.
    """
    paths, target = [Path(file).expanduser() for file in files], Path(out).expanduser()
    if len(paths) < 2:
        raise CovarianceError("merge: give two files or more")
    if target.suffix != ".npz":
        raise CovarianceError(f"{target}: the merged file's name must end in .npz")
    if target.exists() or sidecar_of(target).exists():
        raise CovarianceError(f"{target}: is there already; it was not replaced")
    sidecars = [_described(path) for path in paths]
    _check_same(paths, sidecars)
    total: Any = np.float64(0)
    count, samples = 0, 0
    for path, sidecar in zip(paths, sidecars, strict=True):
        matrix, keys, documents = read_sum(path, sidecar.get("key_size"))
        total, count, samples = total + matrix, count + keys, samples + (documents or 0)
    fields = {
        **sidecars[0],
        "corpus": {"kind": "merged", "parts": [sidecar["corpus"] for sidecar in sidecars]},
        "tokens": count,
        "samples": None,
        "count": count,
        "seed": None,
        "documents": sum(int(sidecar.get("documents") or 0) for sidecar in sidecars),
        "self_sampled": any(sidecar.get("self_sampled") for sidecar in sidecars),
        "seconds": sum(float(sidecar.get("seconds") or 0) for sidecar in sidecars),
    }
    fields.pop("stands_in_for_samples", None)
    _write(target, torch.from_numpy(total), count, samples, sidecars[0]["dtype"], fields)
    return read_moments(target)


def check_copies(job: Job, samples: int | None) -> None:
    """Check, before anything is collected, that copies wouldn't have to replace anything.

    Raises:
        CovarianceError: a file is there that doesn't stand in for this number of samples.
    """
    for copy in (copy for module in job.sizes for copy in _copies(job, module, samples)):
        if copy.exists() and (read_sidecar(copy) or {}).get("stands_in_for_samples") != samples:
            raise CovarianceError(f"{copy}: is there already and holds statistics of its own; it was not replaced")


def store_copies(job: Job, files: Mapping[str, Path], samples: int | None) -> None:
    """Store files again under the names that EasyEdit looks for with ``mom2_n_samples: samples``.

    EasyEdit compares that number with the one inside the file, so the copies say it; their sidecars say that
    they only stand in, and what they really hold.

    Args:
        job: what the files are of.
        files: by module.
        samples: the number; None for no copies.

    Raises:
        CovarianceError: a copy is there and is another's.
    """
    for module, path in files.items():
        for copy in _copies(job, module, samples):
            if copy != path and not _stands_in(copy, path, samples):
                matrix, count, _ = read_sum(path)
                fields = {**_described(path), "stands_in_for_samples": samples}
                _write(copy, torch.from_numpy(matrix), count, samples or 0, str(matrix.dtype), fields)


def _copies(job: Job, module: str, samples: int | None) -> list[Path]:
    """Return the names under which EasyEdit, in either flavour, looks for so many samples of a module."""
    folders = [] if samples is None else model_folders(job.model)
    options = (job.stats_dir, job.model, module, job.corpus.label, job.dtype, samples)
    return [moments_file(*options, folder=folder) for folder in folders]


def _stands_in(copy: Path, path: Path, samples: int | None) -> bool:
    if not copy.exists():
        return False
    there, original = read_sidecar(copy) or {}, _described(path)
    names = ("fingerprint", "module", "corpus", "count")
    if there.get("stands_in_for_samples") != samples or any(there.get(n) != original.get(n) for n in names):
        raise CovarianceError(
            f"{copy}: is there already and holds other second moments than {path.name}; it was not replaced. "
            "Delete it to store these under that name."
        )
    return True


def _described(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CovarianceError(f"{path}: no such file")
    sidecar = read_sidecar(path)
    if sidecar is None:
        raise CovarianceError(
            f"{path}: has no {sidecar_of(path).name} that says what it is of, so it can't be merged or copied"
        )
    return sidecar


def _check_same(paths: Sequence[Path], sidecars: Sequence[Mapping[str, Any]]) -> None:
    for path, sidecar in zip(paths[1:], sidecars[1:], strict=True):
        for field in _SAME:
            if sidecar.get(field) != sidecars[0].get(field):
                raise CovarianceError(
                    f"{path}: {field} is {sidecar.get(field)}, but {sidecars[0].get(field)} in {paths[0]}; "
                    "only second moments of the same weights and module can be merged"
                )
    seen: dict[str, Path] = {}
    for path, sidecar in zip(paths, sidecars, strict=True):
        # Self-sampled text of another seed is other text; files of the same contents aren't.
        kind = sidecar["corpus"].get("kind")
        text = repr((sorted(sidecar["corpus"].items()), sidecar.get("seed") if kind == "self-sampled" else None))
        if text in seen:
            raise CovarianceError(f"{path}: holds the same text as {seen[text]}; it would count twice")
        seen[text] = path


def _write(path: Path, total: torch.Tensor, count: int, samples: int, dtype: str, fields: Mapping[str, Any]) -> None:
    write_moments(path, total, count, samples, dtype, before=lambda size: write_fields(path, {**fields, "bytes": size}))
