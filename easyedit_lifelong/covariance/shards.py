"""Share a collection among processes: each reads its part of the blocks, and the sums are added at the end."""

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
_TIMEOUT = datetime.timedelta(days=2)
"""How long a process that has finished waits for the others."""


@dataclass(frozen=True)
class Shard:
    """This process's part of a collection: of N processes, each reads every N-th block.

    Attributes:
        rank: index of this process.
        world_size: number of processes.
        group: process group that adds the sums; None for the default group, or if there is only one process.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    def owns_block(self, block: int) -> bool:
        """Return whether this process reads a block, given the block's index."""
        return block % self.world_size == self.rank

    @property
    def is_first(self) -> bool:
        """Whether this is the first process, which writes the files."""
        return self.rank == 0


def current_shard() -> Shard:
    """Return this process's part, according to the process group of ``torch.distributed`` if one is set up.

    Sums are added on the CPU, so a group with another backend than gloo gets a gloo group next to it.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Shard()
    group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=_TIMEOUT)
    return Shard(dist.get_rank(), dist.get_world_size(), group)


@contextlib.contextmanager
def torchrun_processes() -> Iterator[bool]:
    """Set up a process group in this context if ``torchrun`` started this process; yield whether it is the first."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield not dist.is_initialized() or dist.get_rank() == 0
        return
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def on_first_process(shard: Shard, call: Callable[[], T]) -> T:
    """Call a function in the first process only, and return its result in all processes.

    Raises:
        LifelongError: the error that the first process raised; it is raised in all processes.
    """
    if shard.world_size == 1:
        return call()
    outcome: list[Any] = [None, None]
    if shard.is_first:
        try:
            outcome[0] = call()
        except LifelongError as error:
            outcome[1] = error.with_traceback(None)
    dist.broadcast_object_list(outcome, src=0, group=shard.group)
    result, failure = outcome
    if failure is None:
        return result
    try:
        raise failure
    finally:
        del outcome, failure  # else the traceback refers to the error, and both outlive the process group


def sum_over_processes(shard: Shard, sums: Sequence[MomentSum]) -> None:
    """Add the sums and counts of all processes; afterwards, every process has the totals.

    Raises:
        CovarianceError: the processes collect different modules.
    """
    if shard.world_size == 1:
        return
    sizes: list[Any] = [None] * shard.world_size
    dist.all_gather_object(sizes, [moment_sum.d for moment_sum in sums], group=shard.group)
    if any(size != sizes[0] for size in sizes):
        raise CovarianceError(
            f"the processes collect different modules (key sizes {sizes}). Start them with the same settings."
        )
    for moment_sum in sums:
        moment_sum.flush()
        count = torch.tensor([moment_sum.count], dtype=torch.int64)
        dist.all_reduce(moment_sum.total, group=shard.group)
        dist.all_reduce(count, group=shard.group)
        moment_sum.count = int(count)
