"""A lock file, so that only one process at a time writes to a folder: to a run's folder, or to an edits folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from easyedit_lifelong.atomic import delete_leftovers
from easyedit_lifelong.errors import RunError

LOG = logging.getLogger(__name__)

LOCK = ".lock"


def lock_folder(
    path: Path, *, work: str = "working on this run", timeout: float = 0, reentrant: bool = False
) -> FileLock | None:
    """Acquire the lock of a folder, and delete temporary files that killed processes left in it.

    The operating system releases the lock when the process ends. The lock file is never deleted: a process that had
    opened it before and one that makes it anew would both get a lock.

    Args:
        path: the folder, which exists.
        work: what a process does while it holds the lock, for messages.
        timeout: seconds to wait for another process, or another thread, that holds the lock.
        reentrant: whether a thread that holds the lock gets it again; each acquisition needs its own release.

    Returns:
        The acquired lock; None if the file system has no locks.

    Raises:
        RunError: another process holds the lock, or the folder cannot be written to.
    """
    lock = FileLock(path / LOCK, is_singleton=reentrant)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise RunError(f"{path}: another process is {work}. Wait for its end, or stop it first.") from None
    except (OSError, NotImplementedError) as error:
        if not os.access(path, os.W_OK | os.X_OK):
            raise RunError(f"{path}: can't be written to: {getattr(error, 'strerror', error)}") from error
        LOG.warning("%s: can't be locked (%s); make sure that no other process is %s", path, error, work)
        return None
    delete_leftovers(path)
    return lock


@contextlib.contextmanager
def locked_folder(path: Path, *, work: str, timeout: float = 0, reentrant: bool = False) -> Iterator[None]:
    """Hold the lock of a folder inside the context; make the folder if it does not exist.

    Args:
        path: the folder.
        work: see :func:`lock_folder`.
        timeout: see :func:`lock_folder`.
        reentrant: see :func:`lock_folder`.

    Raises:
        RunError: another process holds the lock, or the folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: can't make this folder: {error.strerror}") from error
    lock = lock_folder(path, work=work, timeout=timeout, reentrant=reentrant)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def folder_identity(folder: Path) -> tuple[int, int]:
    """Return what distinguishes a folder from one that is made at the same path after it was deleted.

    Raises:
        OSError: there is no such folder.
    """
    status = folder.stat()
    return status.st_dev, status.st_ino
