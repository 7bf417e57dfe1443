"""Describe one forward pass: which columns of its rows hold tokens, and where each row's prompt ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.encoding import IGNORED


@dataclass
class Generation:
    """One call of ``generate``, or one text of a continuous batch: where prompts end, and what edited layers decided.

    Attributes:
        real: which columns of the prompts hold tokens, shape ``(prompts, columns)``.
        ids: the ids of the prompts' tokens, of the same shape; None if the call got embeddings instead.
        decisions: what a layer stores for the later passes of the call, by the ``id`` of the layer.
        columns_read: number of columns that the passes so far have read.
        ends: absolute column of each prompt's last real token, shape ``(prompts,)``.
        last: the largest of ``ends``. It is read once, so that later passes need not synchronise with the device.
    """

    real: Tensor
    ids: Tensor | None = None
    decisions: dict[int, Any] = field(default_factory=dict)
    columns_read: int = 0
    ends: Tensor = field(init=False)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        """Compute where the prompts end."""
        self.ends = last_token(self.real)
        self.last = int(self.ends.max())

    def select_prompts(self, prompts: Tensor) -> Generation:
        """Return a generation of some of the prompts, without decisions.

        Args:
            prompts: the numbers of the prompts.
        """
        ids = None if self.ids is None else self.ids[prompts.to(self.ids.device)]
        return Generation(self.real[prompts.to(self.real.device)], ids)

    def real_tokens(self, batch: int, length: int, device: torch.device) -> Tensor:
        """Return which columns of a pass hold tokens, ``(batch, length)``.

        Args:
            batch: number of rows of the pass: the prompts, repeated for their beams or samples.
            length: number of columns, cached ones included. Those after the prompts hold generated tokens.
            device: the device of the result.
        """
        real = repeat_rows(self.real.to(device), batch)[:, :length]
        return F.pad(real, (0, length - real.shape[1]), value=True)


@dataclass(frozen=True)
class Window:
    """The tokens of the running forward pass.

    Attributes:
        ends: column of each row's last prompt token, counted within this pass; -1 where this pass doesn't contain
            it. Shape ``(batch,)``.
        real: which columns of this pass hold tokens rather than padding. Shape ``(batch, tokens)``.
        past: number of columns that earlier passes have read. They are in a cache, which may have other columns as
            well, if rows join and leave it.
        generation: the call of ``generate`` that this pass belongs to, if any.
        behind: whether all tokens of this pass come after the prompts. This is a Python value, so reading it needs no
            synchronisation with the device.
        unmarked: which rows have nothing that marks the end of a prompt: no lengths, no labels, no ``generate``. Any
            of their tokens can be the last of a prompt. Shape ``(batch,)``; None if there are no such rows.
        notes: what a layer stores for a later layer in the same pass, by the ``id`` of the layer that stores it.
        ids: the ids of this pass's tokens, ``(batch, tokens)``; None if it got embeddings instead.
    """

    ends: Tensor
    real: Tensor
    past: int
    generation: Generation | None
    behind: bool = False
    unmarked: Tensor | None = None
    notes: dict[int, Any] = field(default_factory=dict)
    ids: Tensor | None = None

    def tokens_up_to(self, row: int, column: int, count: int) -> list[int]:
        """Return the ids of the last ``count`` tokens of a row up to a column, without padding.

        Tokens that earlier passes have read are known if they belong to the prompts of a call of ``generate``.

        Args:
            row: the row.
            column: the column of this pass.
            count: the largest number of tokens.

        Returns:
            The ids in their order; empty if the pass got embeddings.
        """
        ids, real, generation = self.ids, self.real, self.generation
        if generation is not None and generation.ids is not None and self.past + column < generation.ids.shape[1]:
            prompt = row * len(generation.ids) // len(real)  # equally many rows for each prompt
            ids, real, row, column = generation.ids, generation.real, prompt, self.past + column
        if ids is None:
            return []
        known: list[int] = ids[row, : column + 1][real[row, : column + 1].to(ids.device)].tolist()
        return known[-count:]

    def select_rows(self, rows: Tensor, generation: Generation | None) -> Window:
        """Return the window of some rows of this pass.

        Args:
            rows: the numbers of the rows.
            generation: the call of ``generate`` that these rows belong to, if any.
        """
        unmarked, ids = (None if part is None else part[rows] for part in (self.unmarked, self.ids))
        return Window(self.ends[rows], self.real[rows], self.past, generation, self.behind, unmarked, ids=ids)


def reads_prompts(window: Window, method: str) -> bool:
    """Return whether a pass reads its prompts, from their first token to the last.

    Args:
        window: the pass.
        method: the beginning of the error message: what must read prompts in one pass, such as "CoachHook's edits".

    Returns:
        False if all tokens of the pass follow the prompts.

    Raises:
        EditError: the pass reads a part of a prompt.
    """
    if window.past == 0:
        is_part = window.generation is not None and bool((window.ends < 0).any())
    else:
        is_part = not window.behind and bool((window.ends >= 0).any())
    if is_part:
        raise EditError(
            f"{method} can't answer a prompt that is fed in parts (in chunks, or after a cache that you passed): they "
            "need all tokens of the prompt in one pass. Pass all of them, without past_key_values."
        )
    return window.past == 0


def repeat_rows(rows: Tensor, batch: int) -> Tensor:
    """Repeat the row of each prompt for its beams or samples, as ``generate`` does.

    Args:
        rows: one row for each prompt, such as the column of its end; shape ``(prompts, …)``.
        batch: number of rows that ``generate`` runs.

    Returns:
        The repeated rows, shape ``(batch, …)``.

    Raises:
        EditError: ``batch`` isn't a multiple of the number of prompts.
    """
    if batch % len(rows):
        raise EditError(
            f"generate() runs {batch} rows for {len(rows)} prompts, so it is unknown which prompt a row continues. "
            "This decoding mode is not supported on an edited model."
        )
    return rows if batch == len(rows) else rows.repeat_interleave(batch // len(rows), dim=0)


def is_padding_mask(mask: Any, batch: int, length: int) -> bool:
    """Whether a mask has one value per row and column, ``(batch, length)``, and so says which columns hold tokens."""
    return isinstance(mask, Tensor) and mask.shape == (batch, length)


def real_tokens(mask: Any, batch: int, length: int, device: torch.device) -> Tensor:
    """Return which columns hold tokens, ``(batch, length)``, from a padding mask; all columns without such a mask."""
    if is_padding_mask(mask, batch, length):
        return mask.to(device).bool()
    return torch.ones(batch, length, dtype=torch.bool, device=device)


def last_token(real: Tensor) -> Tensor:
    """Return the column of each row's last token, ``(batch,)``; -1 where a row has none."""
    columns = torch.arange(real.shape[1], device=real.device)
    return torch.where(real, columns, -1).amax(dim=1)


def column_of_token(real: Tensor, count: Tensor) -> Tensor:
    """Return the column of each row's ``count``-th token, ``(batch,)``; -1 where a row has fewer."""
    reached = (real.long().cumsum(dim=1) == count.unsqueeze(1)) & real
    return torch.where(reached.any(dim=1), reached.long().argmax(dim=1), -1)


def end_before_labels(labels: Any, real: Tensor) -> Tensor:
    """Return the column of each row's prompt end, ``(batch,)``, as labels determine it; -1 where they mark no prompt.

    The prompt ends before the first label. Labels from the first token on, as in plain language modelling, mark no
    prompt.
    """
    if not isinstance(labels, Tensor) or labels.shape != real.shape:
        return torch.full((len(real),), -1, device=real.device)
    answered = labels != IGNORED
    end = answered.long().argmax(dim=1) - 1
    has_prompt = answered.any(dim=1) & (end >= 0) & real.gather(1, end.clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(has_prompt, end, -1)


def cached_length(cache: Any) -> int:
    """Return how many columns a key-value cache holds; 0 for None."""
    if cache is None:
        return 0
    return int(cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache[0][0].shape[-2])


def columns_before(arguments: Mapping[str, Any], generation: Generation | None) -> int:
    """Return how many columns before those of a pass its caches and states stand for.

    A recurrent state does not say how many tokens it has read. It is as many as the passes of the running call of
    ``generate`` have read; without such a call, 1 stands for the unknown number.

    Args:
        arguments: the arguments of the pass, by name.
        generation: the running call of ``generate``, if any.
    """
    state = arguments.get("cache_params")  # Mamba's
    if state is not None and hasattr(state, "has_previous_state"):
        state = state if len(state) and state.has_previous_state() else None
    if state is None and arguments.get("state") is None:  # RWKV's
        return cached_length(arguments.get("past_key_values"))
    return max(1, generation.columns_read if generation is not None else 1)


def reset_cache(cache: Any, prompts: Tensor) -> None:
    """Empty a cache that the caller passed to ``generate``, so that the model reads the full prompts.

    Edits act on full prompts. When the cached tokens were computed, they were a shorter prompt, for which another edit,
    or none, was active. The prompts that ``generate`` received contain the cached tokens, too, so only the time to read
    them again is lost.

    Raises:
        EditError: the prompts don't contain the cached tokens, or the cache can't be emptied.
    """
    length = cached_length(cache)
    if length and length < prompts.shape[1] and not prompts.is_floating_point() and hasattr(cache, "reset"):
        cache.reset()
    if length and cached_length(cache):
        raise EditError(
            f"generate() got a cache of {length} tokens to continue, but an edited model must read full prompts. "
            "Pass input_ids with all tokens of the prompts, cached ones included, or leave past_key_values out."
        )


def mask_from_padding(prompts: Tensor, model: Any) -> Tensor | None:
    """Infer the attention mask of prompts from their padding, as ``generate`` does.

    Returns:
        The mask, shape of ``prompts``; None if padding and end-of-text are the same token, which leaves it unknown.
    """
    config = getattr(model, "generation_config", None)
    pad, eos = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
    eos_tokens = eos if isinstance(eos, (list, tuple)) else [eos]
    return prompts.ne(pad) if pad is not None and pad not in eos_tokens else None
