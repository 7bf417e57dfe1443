"""Edits folders whose digests fit, but whose content does not: refused, with the model unchanged, or usable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyedit_lifelong import atomic, inspect_edits, load_edits, save_edits
from easyedit_lifelong.edits import folder_tensors
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.folder_tensors import read_folder, write_folder
from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.errors import LifelongError, RunError
from tests.support import subject_edits, thoroughness
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states
from tests.support.grace_edits import edited
from tests.support.saved_edits import coachhook, logits_of
from tests.support.tiny_models import build_model, state_of

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
EXAMPLES = 400 if thoroughness.full else 10


@pytest.fixture(scope="module", autouse=True)
def _no_flushing() -> Iterator[None]:
    """Flushing thousands of small files to disk would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (atomic, folder_tensors):
            patch.setattr(module, "fsync_path", lambda path: None)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with edits of GRACE, GRACE by subjects, and CoachHook."""
    home = tmp_path_factory.mktemp("folders")
    save_edits(edited()[0], home / "GRACE")
    for name, edit in (("subject", subject_edits.edit), ("CoachHook", coachhook)):
        model = build_model("llama")
        edit(model, "llama", *(["late"] if name == "subject" else []))
        save_edits(model, home / name)
    return home


def changed_folder(source: Path, target: Path, change: Change) -> Path:
    """Write a copy of a folder with changed content and fitting digests."""
    shutil.rmtree(target, ignore_errors=True)
    index, tensors = read_folder(source)
    change(index, tensors)
    contents = {name: value for name, value in index.items() if name not in ("format", "format_version", "tensors")}
    write_folder(target, contents, tensors)
    return target


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def apply(_: Any, tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = change(tensors[name]).contiguous()

    return apply


def state(name: str, value: Any) -> Change:
    return lambda index, _: index["parts"][0]["state"].update({name: value})


def label(value: Any) -> Change:
    return lambda index, _: index["parts"][0]["state"]["changed"][0].update(labels=[value])


def narrower_keys(index: Any, tensors: dict[str, torch.Tensor]) -> None:
    for name in ("0.keys", "0.queries"):
        tensors[name] = tensors[name][:, :-1].contiguous()


NAN, INFINITY = float("nan"), float("inf")
GRACE_CHANGES: dict[str, Change] = {
    "keys one column short": narrower_keys,
    "values one column short": tensor("0.values", lambda values: values[:, :-1]),
    "values one column too many": tensor("0.values", lambda values: torch.cat([values, values[:, :1]], 1)),
    "radii NaN": tensor("0.radii", lambda radii: radii * NAN),
    "radii negative": tensor("0.radii", lambda radii: -1 - radii),
    "radii infinite": tensor("0.radii", lambda radii: radii + INFINITY),
    "radii in two columns": tensor("0.radii", lambda radii: radii.unsqueeze(1)),
    "keys NaN": tensor("0.keys", lambda keys: keys * NAN),
    "values NaN": tensor("0.values", lambda values: values * NAN),
    "queries NaN": tensor("0.queries", lambda queries: queries * NAN),
    "keys whole numbers": tensor("0.keys", lambda keys: keys.int()),
    "keys complex": tensor("0.keys", lambda keys: keys.to(torch.complex64)),
    "label of text": label(["x"]),
    "label is a text": label("ab"),
    "label of fractions": label([1.5]),
    "label of truth values": label([True]),
    "label negative": label([-3]),
    "checked_length is a text": state("checked_length", "x"),
    "checked_length negative": state("checked_length", -1),
    "in_part is a number": state("in_part", 3),
    "rounding is a text": state("rounding", "x"),
    "rounding NaN": state("rounding", NAN),
}


@pytest.mark.parametrize("change", GRACE_CHANGES)
def test_content_that_does_not_fit_is_refused_before_anything_is_attached(
    folders: Path, tmp_path: Path, change: str
) -> None:
    folder = changed_folder(folders / "GRACE", tmp_path / "changed", GRACE_CHANGES[change])
    model = build_model("llama")
    before, parts = state_of(model), attributes_and_hooks_of(model)
    with pytest.raises(LifelongError) as caught:
        load_edits(model, folder)
    assert str(folder) in str(caught.value)
    assert equal_states(state_of(model), before)
    assert attributes_and_hooks_of(model) == parts


def test_a_state_with_numbers_that_are_not_finite_is_refused(folders: Path, tmp_path: Path) -> None:
    change = tensor("0.model.layers.1.mlp.down_proj.residual", lambda residual: residual * NAN)
    folder = changed_folder(folders / "CoachHook", tmp_path / "changed", change)
    with pytest.raises(RunError, match="holds NaN"):
        load_edits(build_model("llama"), folder)


def message_of(use: Callable[[], Any], folder: Path) -> str:
    """Call a function; return the message of the package's error, or the folder's name if there is none."""
    try:
        use()
    except LifelongError as error:
        return str(error)
    return str(folder)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(allow_nan=True),
    st.sampled_from(["", "x", "\x00", "../../x", "1e999", "model.layers.0.mlp.down_proj"]),
    st.lists(st.integers(-1, 2), max_size=2),
    st.dictionaries(st.sampled_from(["a", "edits"]), st.none(), max_size=1),
)


@st.composite
def index_changes(draw: st.DrawFn) -> Change:
    """Return a change of one value anywhere in an index."""
    choices = [draw(st.integers(0, 10**6)) for _ in range(7)]
    value, delete = draw(VALUES), draw(st.booleans())

    def change(index: dict[str, Any], _: Any) -> None:
        owner: Any = index
        for depth, choice in enumerate(choices):
            keys = sorted(owner) if isinstance(owner, dict) else list(range(len(owner)))
            key = keys[choice % len(keys)]
            inner = owner[key]
            if depth == len(choices) - 1 or not isinstance(inner, (dict, list)) or not inner:
                if delete:
                    del owner[key]
                else:
                    owner[key] = value
                return
            owner = inner

    return change


@st.composite
def tensor_changes(draw: st.DrawFn) -> Change:
    """Return a change of one tensor: its shape, dtype, numbers or name."""
    number = draw(st.integers(0, 10**6))
    dtype = draw(st.sampled_from([torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8, torch.complex64]))
    factor = draw(st.sampled_from([0.0, -1.0, 1e38, NAN, INFINITY]))
    ways: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda values: values.flatten(),
        lambda values: values[:-1],
        lambda values: values[..., :-1],
        lambda values: values.unsqueeze(0),
        lambda values: values.t() if values.dim() == 2 else values,
        lambda values: torch.cat([values, values]),
        lambda values: values.new_zeros(()),
        lambda values: values.new_zeros(0),
        lambda values: values.to(dtype),
        lambda values: values * factor,
    ]
    way = draw(st.sampled_from([*ways, None]))

    def change(_: Any, tensors: dict[str, torch.Tensor]) -> None:
        name = sorted(tensors)[number % len(tensors)]
        original = tensors.pop(name)
        if way is not None:
            tensors[name] = way(original).contiguous()

    return change


@pytest.mark.parametrize("method", ["GRACE", "subject", "CoachHook"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.one_of(index_changes(), tensor_changes()))
def test_any_change_with_fitting_digests_ends_in_an_error_of_the_package_or_usable_edits(
    folders: Path, tmp_path: Path, method: str, change: Change
) -> None:
    folder = changed_folder(folders / method, tmp_path / "changed", change)
    model = build_model("llama")
    before, parts = state_of(model), attributes_and_hooks_of(model)

    def load_and_roll_back() -> None:
        rollback = load_edits(model, folder)
        logits_of(model)
        rollback()

    assert str(folder) in message_of(load_and_roll_back, folder)
    assert equal_states(state_of(model), before)
    assert attributes_and_hooks_of(model) == parts
    for use in (lambda: inspect_edits(folder), lambda: rollback_folder(folder, cases=["c0"], out=tmp_path / "left")):
        assert str(folder) in message_of(use, folder)
        shutil.rmtree(tmp_path / "left", ignore_errors=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed"], "something was written elsewhere"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.binary(max_size=40), st.recursive(VALUES | st.just("\ud83d"), st.lists).map(lambda v: json.dumps(v).encode())
    )
)
def test_an_index_of_any_bytes_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / INDEX).write_bytes(text)
    for use in (lambda: load_edits(None, tmp_path), lambda: inspect_edits(tmp_path)):
        with pytest.raises(RunError, match=str(tmp_path)):
            use()
