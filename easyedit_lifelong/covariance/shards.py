"""Several processes, one collection: ``torchrun`` splits the blocks, and the sums are added up at the end."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.errors import CovarianceError, LifelongError

T = TypeVar("T")
_PATIENCE = datetime.timedelta(days=2)
"""How long a process that is done waits for the others."""


@dataclass(frozen=True)
class Shard:
    """Which part of a collection is this process's.

    Attributes:
        rank: this process's number.
        world: how many there are.
        group: the process group that adds up; None for the default one, or where there is one process.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    def takes(self, block: int) -> bool:
        """Whether a block is this process's."""
        return block % self.world == self.rank

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0


def current_shard() -> Shard:
    """Return this process's part, by ``torch.distributed``'s process group if one is set up.

    Sums are added up on the CPU, in float64, whatever the group itself is for.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Shard()
    group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=_PATIENCE)
    return Shard(dist.get_rank(), dist.get_world_size(), group)


@contextlib.contextmanager
def torchrun_processes() -> Iterator[bool]:
    """Join the processes that ``torchrun`` started, if it did; gives whether this is the first of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield not dist.is_initialized() or dist.get_rank() == 0
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def on_first(shard: Shard, call: Callable[[], T]) -> T:
    """Call something in the first process alone, and return its result in all of them.

    Raises:
        LifelongError: whatever the first process raised, in all of them, so that none waits in vain.
    """
    if shard.world == 1:
        return call()
    answer: list[Any] = [None, None]
    if shard.first:
        try:
            answer[0] = call()
        except LifelongError as error:
            answer[1] = error.with_traceback(None)
    dist.broadcast_object_list(answer, src=0, group=shard.group)
    result, failure = answer
    if failure is None:
        return result
    try:
        raise failure
    finally:
        del answer, failure  # an error that its own traceback refers to would outlive the process group


def add_up(shard: Shard, sums: Sequence[MomentSum]) -> None:
    """Replace every process's sums and counts by those of all processes together.

    Raises:
        CovarianceError: the processes don't collect the same.
    """
    if shard.world == 1:
        return
    sizes: list[Any] = [None] * shard.world
    dist.all_gather_object(sizes, [total.d for total in sums], group=shard.group)
    if any(size != sizes[0] for size in sizes):
        raise CovarianceError(f"the processes collect different modules: key sizes {sizes}")
    for total in sums:
        total.flush()
        count = torch.tensor([total.count], dtype=torch.int64)
        dist.all_reduce(total.total, group=shard.group)
        dist.all_reduce(count, group=shard.group)
        total.count = int(count)
