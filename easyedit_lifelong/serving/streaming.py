"""Pass pieces of text from the worker thread to an asynchronous stream of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from easyedit_lifelong.serving.generation import Row


class Pieces:
    """The pieces of text of a job's rows, in the order in which they become final.

    Args:
        loop: the event loop that reads them.
        rows: the rows; their ``on_text`` is set.

    Attributes:
        complete: whether the end has been marked: no further pieces are added.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rows: Sequence[Row]) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        self.complete = False
        for index, row in enumerate(rows):
            row.on_text = functools.partial(self._add, index)

    def end(self) -> None:
        """Mark the end of the pieces. Any thread can call this."""
        self._put(None)

    async def until(self, deadline: float) -> AsyncIterator[tuple[int, str]]:
        """Yield the index of a row and a piece of its text, up to the end or to a time of the monotonic clock.

        If the pieces are complete at that time, all of them are yielded: a client can read more slowly than the answer
        is generated.
        """
        while True:
            limit = None if self.complete else max(0.0, deadline - time.monotonic())
            try:
                item = await asyncio.wait_for(self._queue.get(), limit)
            except asyncio.TimeoutError:
                return
            if item is None:
                return
            yield item

    def _add(self, index: int, text: str) -> None:
        """Add a piece. The worker thread calls this."""
        self._put((index, text))

    def _put(self, item: tuple[int, str] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed, so nobody reads any more
            self._loop.call_soon_threadsafe(self._receive, item)

    def _receive(self, item: tuple[int, str] | None) -> None:
        """Add an item to the queue. The event loop calls this."""
        self.complete = item is None
        self._queue.put_nowait(item)


def event(data: Any) -> str:
    """Return data as a server-sent event."""
    return f"data: {json.dumps(data)}\n\n"
