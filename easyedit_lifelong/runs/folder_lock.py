"""A lock file, so that only one process at a time works in a run's folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from filelock import FileLock, Timeout

from easyedit_lifelong.errors import RunError

LOG = logging.getLogger(__name__)

LOCK = ".lock"


def lock_folder(path: Path) -> FileLock | None:
    """Acquire the lock of a folder.

    The operating system releases the lock when the process ends. The lock file is never deleted: a process that had
    opened it before and one that makes it anew would both get a lock.

    Returns:
        The acquired lock; None if the file system has no locks.

    Raises:
        RunError: another process holds the lock, or the folder cannot be written to.
    """
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{path}: another process is working on this run. Wait for its end, or stop it first.") from None
    except (OSError, NotImplementedError) as error:
        if not os.access(path, os.W_OK | os.X_OK):
            raise RunError(f"{path}: can't be written to: {getattr(error, 'strerror', error)}") from error
        LOG.warning("%s: can't be locked (%s); make sure that no other process works on this run", path, error)
        return None
    return lock
