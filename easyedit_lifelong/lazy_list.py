"""A list whose first items are decoded when they are read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")


class LazyList(MutableSequence[Item], Generic[Item]):
    """A list that begins with stored items. A stored item is decoded each time it is read, and is not kept.

    While something else refers to a decoded item, reading it again returns the same object, if its class supports weak
    references. Appending, replacing the last items and deleting them take no time for the others. Inserting an item
    before others, or deleting one before others, decodes all items.

    Args:
        count: the number of stored items.
        decode: returns the stored item of an index.
    """

    def __init__(self, count: int, decode: Callable[[int], Item]) -> None:
        self._count, self._decode = count, decode
        self._replaced: dict[int, Item] = {}
        self._added: list[Item] = []
        self._alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        """Return the number of items."""
        return self._count + len(self._added)

    def __iter__(self) -> Iterator[Item]:
        """Yield the items."""
        return (self._item(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Return an item, or a list of several."""
        if isinstance(index, slice):
            return [self._item(number) for number in range(len(self))[index]]
        return self._item(range(len(self))[index])

    @overload
    def __setitem__(self, index: int, value: Item) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[Item]) -> None: ...
    def __setitem__(self, index: int | slice, value: Any) -> None:
        """Replace an item, or a slice of items."""
        if isinstance(index, slice):
            items = list(self)
            items[index] = value
            self._set_all(items)
        elif (number := range(len(self))[index]) < self._count:
            self._replaced[number] = value
        else:
            self._added[number - self._count] = value

    def __delitem__(self, index: int | slice) -> None:
        """Delete an item, or a slice of items."""
        numbers = range(len(self))[index] if isinstance(index, slice) else [range(len(self))[index]]
        if not numbers:
            return
        first = min(numbers)
        if len(numbers) < len(self) - first:  # other items come after the first deleted one
            items = list(self)
            del items[index]
            self._set_all(items)
            return
        del self._added[max(0, first - self._count) :]
        self._count = min(self._count, first)
        self._replaced = {number: item for number, item in self._replaced.items() if number < self._count}

    def insert(self, index: int, value: Item) -> None:
        """Insert an item before an index."""
        if index >= len(self):
            self._added.append(value)
        else:
            self[index:index] = [value]

    def copy(self) -> LazyList[Item]:
        """Return a list of the same items. Decoded items are the same objects in both lists."""
        copied = LazyList(self._count, self._decode)
        copied._replaced, copied._added, copied._alive = dict(self._replaced), self._added.copy(), self._alive
        return copied

    def indices_of(self, objects: Sequence[Item]) -> set[int]:
        """Return the indices of the items that are among some objects, by identity.

        Args:
            objects: items of this list, or a copy of it, which is compared without decoding stored items.
        """
        stored = set[int]()
        if isinstance(objects, LazyList) and objects._alive is self._alive:
            common = min(self._count, objects._count)
            stored = set(range(common)) - self._replaced.keys() - objects._replaced.keys()
            objects = [*objects._replaced.values(), *objects[common:]]
        identities = {id(item) for item in objects}  # the objects stay alive, so no other object has their identities
        decoded = {number: item for number, item in self._alive.items() if number < self._count} | self._replaced
        return (
            stored
            | {number for number, item in decoded.items() if id(item) in identities}
            | {number for number, item in enumerate(self._added, self._count) if id(item) in identities}
        )

    def __eq__(self, other: object) -> bool:
        """Whether the other object is a list of equal items."""
        return isinstance(other, (list, LazyList)) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def _item(self, index: int) -> Item:
        """Return an item by its index, which is not negative."""
        if index >= self._count:
            return self._added[index - self._count]
        if index in self._replaced:
            return self._replaced[index]
        item: Item | None = self._alive.get(index)
        if item is None:
            item = self._decode(index)
            if hasattr(item, "__weakref__"):
                self._alive[index] = item
        return item

    def _set_all(self, items: list[Item]) -> None:
        """Replace all items."""
        self._count, self._replaced, self._added = 0, {}, items


def _equal(item: object, other: object) -> bool:
    """Whether two items are equal."""
    return item == other
