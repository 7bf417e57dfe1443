"""Find, read and store the files of a job."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.clock import now
from easyedit_lifelong.covariance.identity import check_sidecar, read_sidecar, sidecar_of, write_sidecar
from easyedit_lifelong.covariance.job import Job
from easyedit_lifelong.covariance.moment_paths import stored_files
from easyedit_lifelong.covariance.moments import MomentSum, SecondMoment
from easyedit_lifelong.covariance.npz import read_moments, write_moments
from easyedit_lifelong.covariance.shards import Shard
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.versions import package_versions

LOG = logging.getLogger(__name__)


def find_stored(job: Job) -> dict[str, Path]:
    """Return the existing files of a job by module, checked by their sidecars. Their matrices aren't read yet.

    Raises:
        CovarianceError: a file is of another collection, truncated or replaced, according to its sidecar.
    """
    stored = {}
    for module in job.sizes:
        files = stored_files(
            job.stats_dir,
            job.model,
            module,
            job.corpus.label,
            job.dtype,
            n_samples=job.n_samples,
            n_tokens=job.amount.tokens,
            context=job.requested_context,
        )
        if files:
            _check_file(files[0], job, module)
            stored[module] = files[0]
    return stored


def _is_named_by_tokens(path: Path) -> bool:
    """Return whether the amount in a file's name is in tokens."""
    return path.stem.endswith("tokens")


def _check_file(path: Path, job: Job, module: str) -> None:
    """Check a file by its sidecar, if it has one."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        LOG.info("%s: published statistics have no sidecar; can't check that they are of this model's weights", path)
        return
    check_sidecar(path, sidecar, job.identity(module, by_samples=not _is_named_by_tokens(path)))
    if sidecar.get("bytes") != path.stat().st_size:
        raise CovarianceError(
            f"{path}: is {path.stat().st_size} bytes long, but its sidecar says {sidecar.get('bytes')}: "
            "truncated or replaced. Delete both files to collect again."
        )


def read_stored(job: Job, module: str, path: Path, shard: Shard) -> SecondMoment:
    """Return the second moments in a file that the first process found.

    Raises:
        CovarianceError: this process can't see the file, or the file is invalid.
    """
    if not path.is_file():
        raise CovarianceError(
            f"{path}: process {shard.rank} can't see this file. Use a folder that all processes share."
        )
    return read_moments(path, job.sizes[module], None if _is_named_by_tokens(path) else job.n_samples)


def store(job: Job, sums: Mapping[str, MomentSum], documents: int, **facts: Any) -> None:
    """Write the file and the sidecar of every module.

    If another process has stored the same second moments meanwhile, its file remains.

    Args:
        job: the job that was collected.
        sums: the sums by module.
        documents: number of documents that were read.
        facts: further fields of the sidecars: ``engine``, ``processes``, ``seconds``.

    Raises:
        CovarianceError: a file can't be written, or a file of other second moments has its name.
    """
    facts = {"self_sampled": job.corpus.self_sampled, **facts, "versions": package_versions(), "created": now()}
    for module, path in job.paths.items():
        _store_module(job, module, path, sums[module], {"documents": documents, **facts})


def _store_module(job: Job, module: str, path: Path, moment_sum: MomentSum, facts: dict[str, Any]) -> None:
    """Write the file and the sidecar of one module."""
    identity = job.identity(module)
    samples = facts["documents"] if job.amount.samples is None else job.amount.samples
    facts = {"key_size": moment_sum.d, "count": moment_sum.count, **facts}

    def write_module_sidecar(size: int) -> None:
        write_sidecar(path, identity, {**facts, "bytes": size})

    try:
        write_moments(path, moment_sum.symmetric(), moment_sum.count, samples, job.dtype, before=write_module_sidecar)
    except FileExistsError:
        existing = read_sidecar(path) or {}
        if (existing.get("fingerprint"), existing.get("count")) != (identity.fingerprint, moment_sum.count):
            raise CovarianceError(
                f"{path}: is there already, and isn't of this model and text (see {sidecar_of(path).name}); "
                "it was not replaced. Delete it or name another folder."
            ) from None
        LOG.warning("%s: another process stored this file first; it was not replaced", path)
