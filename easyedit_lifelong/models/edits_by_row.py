"""Run one batch whose rows have the edits of different models, or belong to texts that began at different times.

The models are copies of one model that share its weights, so only their edits differ. The batch runs through the
unedited model. At each layer that a copy edits, the editor of the copy gets its rows, as if they were the whole batch.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.partial_pass import hidden_of, with_hidden
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.windows import Generation, Window

Rows = Tensor | slice
"""Selects rows of a tensor: their numbers, or a slice."""


class _Group:
    """The rows that have the edits of one model.

    Args:
        tracker: the tracker of that model.
        rows: the numbers of the rows.
    """

    def __init__(self, tracker: PositionTracker, rows: Sequence[int]) -> None:
        self.tracker, self._rows = tracker, torch.tensor(rows)

    def rows_on(self, device: torch.device) -> Rows:
        """Return what selects the rows from a tensor on a device."""
        if self._rows.device != device:  # copied once, not in every pass
            self._rows = self._rows.to(device)
        return self._rows

    def window(self, window: Window) -> Window:
        """Return the group's window of a pass: the same object at every layer, in which layers can store values."""
        if id(self) not in window.notes:
            rows, generation = self._rows.to(window.real.device), window.generation
            if generation is not None:
                if id(self) not in generation.decisions:
                    generation.decisions[id(self)] = generation.select_prompts(rows)
                generation = generation.decisions[id(self)]
            window.notes[id(self)] = window.select_rows(rows, generation)
        group_window: Window = window.notes[id(self)]
        return group_window


class _TextRow(_Group):
    """A row that holds a text with the edits of a model: its prompt in the first pass, then one token in each pass.

    Args:
        tracker: the tracker of that model.
        row: the number of the row.
        generation: the generation of this text alone.
    """

    def __init__(self, tracker: PositionTracker, row: int, generation: Generation) -> None:
        super().__init__(tracker, [row])
        self._row, self._generation = slice(row, row + 1), generation

    def rows_on(self, device: torch.device) -> Rows:
        """Return a slice: it selects a view, without a copy."""
        return self._row

    def window(self, window: Window) -> Window:
        """Return the window that this pass has for the text alone."""
        if id(self) not in window.notes:
            assert window.ids is not None
            generation, ids = self._generation, window.ids[self._row]
            past, ends = generation.columns_read, generation.ends.to(ids.device)
            window.notes[id(self)] = Window(
                ends=ends if past == 0 else torch.full_like(ends, -1),
                real=generation.real.to(ids.device) if past == 0 else torch.ones_like(ids, dtype=torch.bool),
                past=past,
                generation=generation,
                behind=past > 0,
                ids=ids,
            )
            generation.columns_read += ids.shape[1]
        text_window: Window = window.notes[id(self)]
        return text_window


@contextlib.contextmanager
def edits_by_row(model: nn.Module, edited: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield a model whose rows, in each pass inside the context, have the edits of their own models.

    All edits must act through an :class:`.Attachment`, and on each row independently of the other rows.

    Args:
        model: a model without edits, which is yielded.
        edited: for each row, a copy of the model that shares its weights, with edits; or ``model`` itself.
    """
    groups: list[tuple[nn.Module, _Group]] = []
    for copy in dict.fromkeys(edited):
        tracker = PositionTracker.of(copy)
        if tracker is not None:  # otherwise without edits
            groups.append((copy, _Group(tracker, [row for row, of_row in enumerate(edited) if of_row is copy])))
    with _editing_groups(model, groups):
        yield model


@contextlib.contextmanager
def edits_of_texts(model: nn.Module, edited: Sequence[nn.Module], generations: Sequence[Generation]) -> Iterator[None]:
    """Let each row of the passes inside the context hold a text, with the edits of one of the models.

    All edits must act through an :class:`.Attachment`, and on each row independently of the other rows. The first pass
    of a text reads its prompt; each further one, in this context or another, reads one token.

    Args:
        model: a model without edits, which runs the passes.
        edited: for each row, a copy of the model that shares its weights, with edits; or ``model`` itself.
        generations: for each row, the generation of its text alone. The columns of its prompt are those of the first
            pass, padding included.
    """
    groups: list[tuple[nn.Module, _Group]] = []
    for row, (copy, generation) in enumerate(zip(edited, generations, strict=True)):
        tracker = PositionTracker.of(copy)
        if tracker is not None:
            groups.append((copy, _TextRow(tracker, row, generation)))
    with _editing_groups(model, groups):
        yield


@contextlib.contextmanager
def _editing_groups(model: nn.Module, groups: Sequence[tuple[nn.Module, _Group]]) -> Iterator[None]:
    """Attach the edits of copies of a model, each for a group of rows, to the model."""
    paths = {copy: {module: path for path, module in copy.named_modules()} for copy in dict(groups)}
    places: dict[str, list[tuple[_Group, Attachment]]] = {}
    for copy, group in groups:
        for attachment in group.tracker.attachments:
            places.setdefault(paths[copy][attachment.layer], []).append((group, attachment))
    with contextlib.ExitStack() as stack:
        for path, edits in places.items():
            replace = functools.partial(_replace_rows, model, edits)
            stack.callback(Attachment(model, model.get_submodule(path), "", replace).detach)
        yield


def _replace_rows(
    model: nn.Module,
    edits: Sequence[tuple[_Group, Attachment]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> Any:
    """Return a layer's output with the edits of each group in the group's rows; None to keep the output."""
    tracker = PositionTracker.of(model)
    window = None if tracker is None else tracker.current()
    if window is None:  # the caller runs only a part of the model
        return None
    hidden = hidden_of(output)
    edited = None
    for group, attachment in edits:
        rows = group.rows_on(hidden.device)
        part = (hidden if edited is None else edited)[rows]
        part_args = tuple(_select(value, rows, len(hidden)) for value in args)
        part_kwargs = {name: _select(value, rows, len(hidden)) for name, value in kwargs.items()}
        with overridden("window", {group.tracker: group.window(window)}):
            replaced = attachment.replace(part_args, part_kwargs, with_hidden(output, part))
        if replaced is not None:
            edited = hidden.clone() if edited is None else edited
            edited[rows] = hidden_of(replaced)
    return None if edited is None else with_hidden(output, edited)


def _select(value: Any, rows: Rows, batch: int) -> Any:
    """Return the rows of a tensor with one entry for each row of the batch; any other value as it is."""
    return value[rows] if isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch else value
