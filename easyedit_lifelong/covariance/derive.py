"""Make files of second moments from other files: merge them, and copy them under the names that EasyEdit expects."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easyedit_lifelong.covariance.identity import read_sidecar, sidecar_of, write_fields
from easyedit_lifelong.covariance.job import Job
from easyedit_lifelong.covariance.moment_paths import model_folders, moments_file
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.npz import read_moments, read_sum, write_moments
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.paths import expanded_path

_SAME_FIELDS = ("fingerprint", "module", "key_size")


def merge_moments(files: Sequence[str | Path], out: str | Path) -> SecondMoment:
    """Merge second moments of one module, collected on several corpora, into one file.

    The sums and counts are added, so the result is the same as if the corpora had been read in one collection. The same
    file or corpus twice is refused. The caller must make sure that the corpora don't overlap otherwise.

    Args:
        files: two or more ``.npz`` files with sidecars, of the same weights and module.
        out: the ``.npz`` file to write; it must not exist.

    Returns:
        The merged second moments.

    Raises:
        CovarianceError: a file can't be read, the files are of different weights or modules or of the same text, or
            ``out`` exists.
    """
    paths, target = [expanded_path(file, CovarianceError) for file in files], expanded_path(out, CovarianceError)
    if len(paths) < 2:
        raise CovarianceError("merge: give two files or more")
    if target.suffix != ".npz":
        raise CovarianceError(f"{target}: the merged file's name must end in .npz")
    if target.exists() or sidecar_of(target).exists():
        raise CovarianceError(f"{target}: is there already; it was not replaced. Name another file, or delete it.")
    sidecars = [_require_sidecar(path) for path in paths]
    _check_mergeable(paths, sidecars)
    total: Any = np.float64(0)
    count, samples = 0, 0
    for path, sidecar in zip(paths, sidecars, strict=True):
        matrix, file_count, file_samples = read_sum(path, sidecar.get("key_size"))
        total, count, samples = total + matrix, count + file_count, samples + (file_samples or 0)
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
    _write_with_sidecar(target, torch.from_numpy(total), count, samples, sidecars[0]["dtype"], fields)
    return read_moments(target)


def check_copies(job: Job, samples: int | None) -> None:
    """Check before a collection that copies for EasyEdit won't have to replace other files.

    Args:
        job: the collection.
        samples: EasyEdit's ``mom2_n_samples``; None for no copies.

    Raises:
        CovarianceError: a file that isn't a copy for this number of samples has the name of a copy.
    """
    for copy in itertools.chain.from_iterable(_copy_paths(job, module, samples) for module in job.sizes):
        if copy.exists() and (read_sidecar(copy) or {}).get("stands_in_for_samples") != samples:
            raise CovarianceError(
                f"{copy}: exists and holds other statistics; it was not replaced. Delete it or name another folder."
            )


def store_copies(job: Job, files: Mapping[str, Path], samples: int | None) -> None:
    """Copy files to the names that EasyEdit expects for a number of samples.

    EasyEdit compares its ``mom2_n_samples`` with the number in the file, so the copies state that number. Their
    sidecars state it as ``stands_in_for_samples``, and have the real amounts.

    Args:
        job: the job that the files belong to.
        files: the files by module.
        samples: EasyEdit's ``mom2_n_samples``; None for no copies.

    Raises:
        CovarianceError: another file has the name of a copy.
    """
    for module, path in files.items():
        for copy in _copy_paths(job, module, samples):
            if copy != path and not _is_stored_copy(copy, path, samples):
                matrix, count, _ = read_sum(path)
                fields = {**_require_sidecar(path), "stands_in_for_samples": samples}
                _write_with_sidecar(copy, torch.from_numpy(matrix), count, samples or 0, str(matrix.dtype), fields)


def _copy_paths(job: Job, module: str, samples: int | None) -> list[Path]:
    """Return the files in which EasyEdit's release and main branch expect this number of samples of a module."""
    folders = [] if samples is None else model_folders(job.model)
    options = (job.stats_dir, job.model, module, job.corpus.label, job.dtype, samples)
    return [moments_file(*options, folder=folder) for folder in folders]


def _is_stored_copy(copy: Path, path: Path, samples: int | None) -> bool:
    """Return whether a copy of a file exists already.

    Raises:
        CovarianceError: a file with other second moments has the name of the copy.
    """
    if not copy.exists():
        return False
    existing, original = read_sidecar(copy) or {}, _require_sidecar(path)
    fields = ("fingerprint", "module", "corpus", "count")
    is_other = any(existing.get(field) != original.get(field) for field in fields)
    if is_other or existing.get("stands_in_for_samples") != samples:
        raise CovarianceError(
            f"{copy}: is there already and holds other second moments than {path.name}; it was not replaced. "
            "Delete it to store these under its name."
        )
    return True


def _require_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar of a file that must have one."""
    if not path.is_file():
        raise CovarianceError(f"{path}: no such file")
    sidecar = read_sidecar(path)
    if sidecar is None:
        raise CovarianceError(
            f"{path}: has no {sidecar_of(path).name} that says what it is of, so it can't be merged or copied"
        )
    return sidecar


def _check_mergeable(paths: Sequence[Path], sidecars: Sequence[Mapping[str, Any]]) -> None:
    """Check that files are of the same weights and module, and of different texts."""
    for path, sidecar in zip(paths[1:], sidecars[1:], strict=True):
        for field in _SAME_FIELDS:
            if sidecar.get(field) != sidecars[0].get(field):
                raise CovarianceError(
                    f"{path}: {field} is {sidecar.get(field)}, but {sidecars[0].get(field)} in {paths[0]}; "
                    "only second moments of the same weights and module can be merged"
                )
    seen: dict[str, Path] = {}
    for path, sidecar in zip(paths, sidecars, strict=True):
        # Self-sampled text of another seed is other text. Documents of a corpus can be the same for another seed.
        kind = sidecar["corpus"].get("kind")
        text = repr((sorted(sidecar["corpus"].items()), sidecar.get("seed") if kind == "self-sampled" else None))
        if text in seen:
            raise CovarianceError(
                f"{path}: holds the same text as {seen[text]}; it would count twice. Leave one of them out."
            )
        seen[text] = path


def _write_with_sidecar(
    path: Path, total: torch.Tensor, count: int, samples: int, dtype: str, fields: Mapping[str, Any]
) -> None:
    """Write a file of second moments, and its sidecar with the given fields."""
    write_moments(path, total, count, samples, dtype, before=lambda size: write_fields(path, {**fields, "bytes": size}))
