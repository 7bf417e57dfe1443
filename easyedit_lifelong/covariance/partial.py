"""Sums of a collection that isn't finished, kept on disk so that a kill costs half a minute."""

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

from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.covariance.npz import replacing
from easyedit_lifelong.covariance.plan import Position
from easyedit_lifelong.covariance.shards import Shard

LOG = logging.getLogger(__name__)

_SHARE = 20
"""Writing may take one part in this many of the time."""


@dataclass
class Progress:
    """A collection's sums and how far it is.

    Attributes:
        sums: by path of the module.
        position: what is behind it.
        seconds: spent so far, over all its processes' lives.
    """

    sums: dict[str, MomentSum]
    position: Position = field(default_factory=Position)
    seconds: float = 0.0


class PartialSums:
    """Where one collection keeps its unfinished sums.

    Args:
        folder: folder of the files to come.
        what: everything that makes this collection this one, but its modules.
        shard: this process's part of it.
        every: seconds between two writings, at least; longer where writing itself takes long. 0 for
            no waiting at all.
    """

    def __init__(self, folder: Path, what: Mapping[str, Any], shard: Shard, every: float) -> None:
        self._text = json.dumps({**what, "rank": shard.rank, "world": shard.world}, sort_keys=True)
        self._name = f".partial-{hashlib.sha256(self._text.encode()).hexdigest()[:16]}"
        self.folder, self._every = folder, every
        self._wrote = time.monotonic()
        self._took = 0.0

    def load(self, sizes: Mapping[str, int]) -> Progress:
        """Return the furthest progress there is for these modules, else none.

        A collection of more modules will do for some of them. A file that can't be read is passed over
        with a warning: it costs time, not correctness.
        """
        best = Progress({path: MomentSum(d) for path, d in sizes.items()})
        for path in sorted(self.folder.glob(f"{self._name}-*.npz")):
            found = self._read(path, sizes)
            if found is not None and found.position.block > best.position.block:
                best = found
        if best.position.block:
            LOG.info("going on after %d tokens that were counted before", best.position.tokens)
        return best

    def save(self, progress: Progress) -> bool:
        """Write the sums if it is time; return whether it was done.

        Raises:
            CovarianceError: they can't be written.
        """
        begin = time.monotonic()
        wait = max(self._every, _SHARE * self._took) if self._every > 0 else 0.0
        if begin - self._wrote < wait:
            return False
        state = {"what": self._text, "modules": list(progress.sums), "seconds": progress.seconds}
        contents = {"state": np.array(json.dumps({**state, "position": asdict(progress.position)}))}
        for number, total in enumerate(progress.sums.values()):
            total.flush()
            contents[f"sum{number}"] = total.total.numpy()
            contents[f"count{number}"] = np.array(total.count)
        with replacing(self._file(progress)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **contents)  # type: ignore[arg-type]  # its stub takes the keys for its own flag
        self._wrote = time.monotonic()
        self._took = self._wrote - begin
        return True

    def remove(self) -> None:
        """Remove what was kept, once the results are stored."""
        for path in self.folder.glob(f"{self._name}-*.npz"):
            path.unlink(missing_ok=True)

    def _file(self, progress: Progress) -> Path:
        modules = hashlib.sha256("\0".join(sorted(progress.sums)).encode()).hexdigest()[:8]
        return self.folder / f"{self._name}-{modules}.npz"

    def _read(self, path: Path, sizes: Mapping[str, int]) -> Progress | None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                state = json.loads(str(archive["state"]))
                if state["what"] != self._text or not set(sizes) <= set(state["modules"]):
                    return None
                sums = {}
                for module, d in sizes.items():
                    number = state["modules"].index(module)
                    total = MomentSum(d)
                    total.total = torch.from_numpy(archive[f"sum{number}"]).reshape(d, d)
                    total.count = int(archive[f"count{number}"])
                    sums[module] = total
                return Progress(sums, Position(**state["position"]), float(state["seconds"]))
        except Exception as error:  # any unreadable file is one that isn't there
            LOG.warning("%s: unfinished sums can't be read, starting again: %s", path, error)
            return None
