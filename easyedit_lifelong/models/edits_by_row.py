"""Run one batch whose rows have the edits of different models.

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
from easyedit_lifelong.models.windows import Window


class _Group:
    """The rows that have the edits of one model.

    Args:
        tracker: the tracker of that model.
        rows: the numbers of the rows.
    """

    def __init__(self, tracker: PositionTracker, rows: Sequence[int]) -> None:
        self.tracker, self.rows = tracker, torch.tensor(rows)

    def window(self, window: Window) -> Window:
        """Return the group's window of a pass: the same object at every layer, so that layers can leave notes in it."""
        if id(self) not in window.notes:
            rows, generation = self.rows.to(window.real.device), window.generation
            if generation is not None:
                if id(self) not in generation.decisions:
                    generation.decisions[id(self)] = generation.select_prompts(rows)
                generation = generation.decisions[id(self)]
            window.notes[id(self)] = window.select_rows(rows, generation)
        group_window: Window = window.notes[id(self)]
        return group_window


@contextlib.contextmanager
def edits_by_row(model: nn.Module, edited: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield a model whose rows, in each pass inside the context, have the edits of their own models.

    All edits must act through an :class:`.Attachment`, and on each row independently of the other rows.

    Args:
        model: a model without edits, which is yielded.
        edited: for each row, a copy of the model that shares its weights, with edits; or ``model`` itself.
    """
    places: dict[str, list[tuple[_Group, Attachment]]] = {}
    for copy in dict.fromkeys(edited):
        tracker = PositionTracker.of(copy)
        if tracker is None:
            continue  # without edits
        group = _Group(tracker, [row for row, of_row in enumerate(edited) if of_row is copy])
        paths = {module: path for path, module in copy.named_modules()}
        for attachment in tracker.attachments:
            places.setdefault(paths[attachment.layer], []).append((group, attachment))
    with contextlib.ExitStack() as stack:
        for path, edits in places.items():
            replace = functools.partial(_replace_rows, model, edits)
            stack.callback(Attachment(model, model.get_submodule(path), "", replace).detach)
        yield model


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
        rows = group.rows.to(hidden.device)
        part = (hidden if edited is None else edited)[rows]
        part_args = tuple(_select(value, rows, len(hidden)) for value in args)
        part_kwargs = {name: _select(value, rows, len(hidden)) for name, value in kwargs.items()}
        with overridden("window", {group.tracker: group.window(window)}):
            replaced = attachment.replace(part_args, part_kwargs, with_hidden(output, part))
        if replaced is not None:
            edited = hidden.clone() if edited is None else edited
            edited[rows] = hidden_of(replaced)
    return None if edited is None else with_hidden(output, edited)


def _select(value: Any, rows: Tensor, batch: int) -> Any:
    """Return the rows of a tensor with one entry for each row of the batch; any other value as it is."""
    return value[rows] if isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch else value
