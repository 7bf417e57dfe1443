"""A lazy list behaves as a list of the same items, and decodes only what is read."""

from __future__ import annotations

import gc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.lazy_list import LazyList
from tests.support.thoroughness import examples


class Item:
    """An item of which weak references can be made."""

    def __init__(self, number: int) -> None:
        self.number = number


indices = st.integers(-6, 6)
operations = st.one_of(
    st.tuples(st.just("append"), st.integers()),
    st.tuples(st.just("set"), indices, st.integers()),
    st.tuples(st.just("delete"), indices),
    st.tuples(st.just("truncate"), indices),
    st.tuples(st.just("insert"), indices, st.integers()),
    st.tuples(st.just("pop")),
    st.tuples(st.just("replace"), st.lists(st.integers(), max_size=3)),
)


def apply(items: Any, operation: tuple[Any, ...]) -> object:
    try:
        match operation:
            case "append", value:
                items.append(value)
            case "set", index, value:
                items[index] = value
            case "delete", index:
                del items[index]
            case "truncate", index:
                del items[index:]
            case "insert", index, value:
                items.insert(index, value)
            case "pop", *_:
                return items.pop()
            case "replace", values:
                items[:] = values
    except IndexError:
        return IndexError
    return None


@examples(300)
@given(st.integers(0, 5), st.lists(operations, max_size=12))
def test_a_lazy_list_behaves_as_a_list(count: int, steps: list[tuple[Any, ...]]) -> None:
    lazy, expected = LazyList(count, lambda index: 10 * index), [10 * index for index in range(count)]
    for step in steps:
        assert apply(lazy, step) == apply(expected, step)
        assert lazy == expected
        assert (len(lazy), lazy[1:3], lazy[-2:], list(lazy)) == (len(expected), expected[1:3], expected[-2:], expected)


def test_appending_and_deleting_at_the_end_decode_nothing() -> None:
    decoded: list[int] = []
    items = LazyList[Any](1000, decoded.append)
    items.append("a")
    items.extend("bc")
    items[3] = "d"
    del items[998:]
    assert (len(items), items[3], decoded) == (998, "d", [])


def test_an_item_in_use_is_read_as_the_same_object_and_others_are_not_kept() -> None:
    items = LazyList(3, Item)
    first = items[0]
    assert items[0] is first
    assert items.copy()[0] is first
    del first
    gc.collect()
    assert not items._alive


def test_indices_of_finds_items_by_identity() -> None:
    items = LazyList(4, Item)
    copied, kept = items.copy(), items[1]
    added = Item(1)
    items.append(added)
    assert items.indices_of([kept, added, Item(1)]) == {1, 4}
    assert items.indices_of(copied) == {0, 1, 2, 3}
    items[2] = Item(2)
    assert items.indices_of(copied) == {0, 1, 3}
    del items[0]
    assert items.indices_of([kept]) == {0}


def test_a_copy_is_compared_without_decoding_stored_items() -> None:
    decoded: list[int] = []

    def decode(index: int) -> Item:
        decoded.append(index)
        return Item(index)

    items = LazyList(1000, decode)
    copied = items.copy()
    assert items.indices_of(copied) == set(range(1000))
    assert not decoded
