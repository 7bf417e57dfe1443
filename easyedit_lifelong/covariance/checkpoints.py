"""Checkpoints of an unfinished collection, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easyedit_lifelong.covariance.blocks import Position
from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.covariance.npz import writing_file
from easyedit_lifelong.covariance.shards import Shard
from easyedit_lifelong.parsing import parse_json

LOG = logging.getLogger(__name__)

_MIN_INTERVAL_RATIO = 20
"""The interval between two checkpoints is at least this many times the time that one takes."""


@dataclass
class Progress:
    """The state of an unfinished collection.

    Attributes:
        sums: running sums by path of the module.
        position: the position up to which the text has been read.
        seconds: time spent on it, including interrupted runs.
    """

    sums: dict[str, MomentSum]
    position: Position = field(default_factory=Position)
    seconds: float = 0.0


class Checkpoints:
    """Saves and loads the checkpoints of one collection.

    Args:
        folder: folder of the checkpoints.
        settings: everything that the sums depend on, except for the modules.
        shard: this process's part of the collection.
        every: minimum number of seconds between two checkpoints. The interval is longer if a checkpoint takes long. 0
            saves at every call.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard: Shard, every: float) -> None:
        self._settings = json.dumps({**settings, "rank": shard.rank, "world": shard.world_size}, sort_keys=True)
        self._name = f".partial-{hashlib.sha256(self._settings.encode()).hexdigest()[:16]}"
        self.folder, self._every = folder, every
        self._last_save = time.monotonic()
        self._save_seconds = 0.0

    def load(self, sizes: Mapping[str, int]) -> Progress:
        """Return the checkpoint with the most progress for these modules; without one, the state at the beginning.

        A checkpoint with additional modules can be used. A checkpoint that can't be read is ignored with a warning.

        Args:
            sizes: key size by path of the module.
        """
        best = Progress({path: MomentSum(d) for path, d in sizes.items()})
        for path in sorted(self.folder.glob(f"{self._name}-*.npz")):
            progress = self._read(path, sizes)
            if progress is not None and progress.position.block > best.position.block:
                best = progress
        if best.position.block:
            LOG.info("resuming after %d tokens that an interrupted run has counted", best.position.tokens)
        return best

    def save(self, progress: Progress) -> bool:
        """Save a checkpoint if the interval has passed; return whether it was saved.

        Raises:
            CovarianceError: the checkpoint can't be written.
        """
        start = time.monotonic()
        interval = max(self._every, _MIN_INTERVAL_RATIO * self._save_seconds) if self._every > 0 else 0.0
        if start - self._last_save < interval:
            return False
        state = {"what": self._settings, "modules": list(progress.sums), "seconds": progress.seconds}
        arrays = {"state": np.array(json.dumps({**state, "position": asdict(progress.position)}))}
        for number, moment_sum in enumerate(progress.sums.values()):
            moment_sum.flush()
            arrays[f"sum{number}"] = moment_sum.total.numpy()
            arrays[f"count{number}"] = np.array(moment_sum.count)
        with writing_file(self._file(progress)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub expects its flag allow_pickle
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - start
        return True

    def remove(self) -> None:
        """Remove the checkpoints. Call this when the results are stored."""
        for path in self.folder.glob(f"{self._name}-*.npz"):
            path.unlink(missing_ok=True)

    def _file(self, progress: Progress) -> Path:
        """Return the file of a checkpoint. Its name depends on the settings and the modules."""
        modules = hashlib.sha256("\0".join(sorted(progress.sums)).encode()).hexdigest()[:8]
        return self.folder / f"{self._name}-{modules}.npz"

    def _read(self, path: Path, sizes: Mapping[str, int]) -> Progress | None:
        """Return the state in a checkpoint; None if it is of another collection or can't be read."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                state = parse_json(str(archive["state"]))
                if state["what"] != self._settings or not set(sizes) <= set(state["modules"]):
                    return None
                sums = {}
                for module, d in sizes.items():
                    number = state["modules"].index(module)
                    sums[module] = moment_sum = MomentSum(d)
                    moment_sum.total = torch.from_numpy(archive[f"sum{number}"]).reshape(d, d)
                    moment_sum.count = int(archive[f"count{number}"])
                return Progress(sums, Position(**state["position"]), float(state["seconds"]))
        except Exception as error:  # whatever is wrong with the file, the collection can start again
            LOG.warning("%s: unfinished sums can't be read, starting again: %s", path, error)
            return None
