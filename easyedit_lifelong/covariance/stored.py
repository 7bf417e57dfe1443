"""Second moments on disk: files that hold what a job asks for, and the files that a collection stores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.clock import now
from easyedit_lifelong.covariance.files import stored_files
from easyedit_lifelong.covariance.identity import check_sidecar, read_sidecar, sidecar_of, write_sidecar
from easyedit_lifelong.covariance.job import Job
from easyedit_lifelong.covariance.moments import MomentSum, SecondMoment
from easyedit_lifelong.covariance.npz import read_moments, write_moments
from easyedit_lifelong.covariance.shards import Shard
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.versions import package_versions

LOG = logging.getLogger(__name__)


def find_stored(job: Job) -> dict[str, Path]:
    """Return the files that hold what a job asks for, by module; their matrices are not read yet.

    Raises:
        CovarianceError: a file holds something else, by its sidecar.
    """
    found = {}
    for module in job.sizes:
        files = stored_files(
            job.stats_dir,
            job.model,
            module,
            job.corpus.label,
            job.dtype,
            n_samples=job.n_samples,
            n_tokens=job.amount.tokens,
            context=job.named_context,
        )
        if files:
            _check(files[0], job, module)
            found[module] = files[0]
    return found


def _by_tokens(path: Path) -> bool:
    return path.stem.endswith("tokens")


def _check(path: Path, job: Job, module: str) -> None:
    sidecar = read_sidecar(path)
    if sidecar is None:
        LOG.info("%s: published statistics; nothing says of which weights, so that isn't checked", path)
        return
    check_sidecar(path, sidecar, job.identity(module, by_samples=not _by_tokens(path)))
    if sidecar.get("bytes") != path.stat().st_size:
        raise CovarianceError(
            f"{path}: is {path.stat().st_size} bytes long, but its sidecar says {sidecar.get('bytes')}: "
            "truncated or replaced. Delete both to collect anew."
        )


def read_stored(job: Job, module: str, path: Path, shard: Shard) -> SecondMoment:
    """Read a file that the first process found.

    Raises:
        CovarianceError: this process can't see it, or it can't be used.
    """
    if not path.is_file():
        raise CovarianceError(f"{path}: process {shard.rank} can't see this file; use a folder that all share")
    return read_moments(path, job.sizes[module], None if _by_tokens(path) else job.n_samples)


def store(job: Job, sums: Mapping[str, MomentSum], documents: int, **facts: Any) -> None:
    """Write every module's file and sidecar; a file that came up meanwhile stays, if it is of the same.

    Args:
        job: what was collected.
        sums: the sums by module.
        documents: how many were read.
        facts: what else the sidecars say: ``engine``, ``processes``, ``seconds``.

    Raises:
        CovarianceError: a file can't be written, or another is in its place.
    """
    facts = {"self_sampled": job.corpus.self_sampled, **facts, "versions": package_versions(), "created": now()}
    for module, path in job.paths.items():
        _store_one(job, module, path, sums[module], {"documents": documents, **facts})


def _store_one(job: Job, module: str, path: Path, total: MomentSum, facts: dict[str, Any]) -> None:
    identity = job.identity(module)
    samples = facts["documents"] if job.amount.samples is None else job.amount.samples
    facts = {"key_size": total.d, "count": total.count, **facts}

    def describe(size: int) -> None:
        write_sidecar(path, identity, {**facts, "bytes": size})

    try:
        write_moments(path, total.symmetric(), total.count, samples, job.dtype, before=describe)
    except FileExistsError:
        there = read_sidecar(path) or {}
        if (there.get("fingerprint"), there.get("count")) != (identity.fingerprint, total.count):
            raise CovarianceError(
                f"{path}: is there already, and isn't of this model and text (see {sidecar_of(path).name}); "
                "it was not replaced. Delete it or name another folder."
            ) from None
        LOG.warning("%s: another process stored it first; it stays", path)
