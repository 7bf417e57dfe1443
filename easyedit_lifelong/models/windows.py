"""What one forward pass holds of its rows: which columns are tokens, and where each row's prompt ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.encoding import IGNORED


@dataclass
class Generation:
    """One call of ``generate``: its prompts' ends, and what each layer decided about them.

    Attributes:
        ends: absolute column of each prompt's last real token, shape ``(batch,)``.
        real: which columns of the prompts hold tokens, shape ``(batch, tokens)``.
        decisions: what a layer wants to remember between passes, by layer.
        last: the last of ``ends``, read once, so that no later pass has to wait for the device.
    """

    ends: Tensor = field(init=False)
    real: Tensor
    decisions: dict[int, Any] = field(default_factory=dict)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the prompts' ends."""
        self.ends = last_token(self.real)
        self.last = int(self.ends.max())

    def real_tokens(self, batch: int, length: int, device: torch.device) -> Tensor:
        """Return which columns of a pass, cached ones included, hold tokens: ``(batch, length)``."""
        real = repeated(self.real.to(device), batch)[:, :length]
        return F.pad(real, (0, length - real.shape[1]), value=True)


@dataclass(frozen=True)
class Window:
    """The pass under way.

    Attributes:
        ends: column, within this pass, of each row's last prompt token; -1 where this pass doesn't
            hold it. Shape ``(batch,)``.
        real: which columns of this pass hold tokens, not padding. Shape ``(batch, tokens)``.
        past: number of columns that the pass reads from a cache.
        generation: the call of ``generate`` that this pass belongs to, if any.
        behind: whether this pass is known, without waiting for the device, to come after every prompt's end.
        notes: what a layer wants a later one to know of this pass, by layer.
    """

    ends: Tensor
    real: Tensor
    past: int
    generation: Generation | None
    behind: bool = False
    notes: dict[int, Any] = field(default_factory=dict)


def repeated(ends: Tensor, batch: int) -> Tensor:
    """Repeat each prompt's end for its beams or samples, as ``generate`` repeats its rows.

    Raises:
        EditError: the rows aren't the same number for every prompt.
    """
    if batch % len(ends):
        raise EditError(
            f"generate() runs {batch} rows for {len(ends)} prompts; where each prompt ends can't be told. "
            "This decoding mode is not supported on an edited model."
        )
    return ends if batch == len(ends) else ends.repeat_interleave(batch // len(ends), dim=0)


def is_padding_mask(mask: Any, batch: int, length: int) -> bool:
    """Whether an attention mask says, column by column, which of a row's columns hold tokens."""
    return isinstance(mask, Tensor) and mask.shape == (batch, length)


def real_tokens(mask: Any, batch: int, length: int, device: torch.device) -> Tensor:
    """Return which columns hold tokens by a mask, cached ones included, ``(batch, length)``; all, if it doesn't say."""
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
    """Return the column before each row's first label, ``(batch,)``; the last token's where labels mark no prompt."""
    last = last_token(real)
    if not isinstance(labels, Tensor) or labels.shape != real.shape:
        return last
    answered = labels != IGNORED
    before = answered.long().argmax(dim=1) - 1
    # Labels from the first real token on (plain language modelling) mark no prompt.
    has_prompt = answered.any(dim=1) & (before >= 0) & real.gather(1, before.clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(has_prompt, before, last)


def cached_length(cache: Any) -> int:
    """Return how many columns a key-value cache holds; 0 for None."""
    if cache is None:
        return 0
    return int(cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache[0][0].shape[-2])


def reset_cache(cache: Any, prompts: Tensor) -> None:
    """Have a cache that ``generate`` is to continue filled anew, because an edit acts on full prompts.

    What was cached belongs to shorter prompts, which other edits, or none, answered. The prompts
    that ``generate`` is given have its tokens, too, so all that is lost is the time to read them again.

    Raises:
        EditError: the prompts don't hold the cached tokens, or the cache can't be emptied.
    """
    length = cached_length(cache)
    if length and length < prompts.shape[1] and not prompts.is_floating_point() and hasattr(cache, "reset"):
        cache.reset()
    if length and cached_length(cache):
        raise EditError(
            f"generate() is to continue a cache of {length} tokens, and an edited model has to read its prompts as a "
            "whole. Pass input_ids with all tokens of the prompts, those in the cache included, or no past_key_values."
        )


def mask_from_padding(prompts: Tensor, model: Any) -> Tensor | None:
    """Infer prompts' attention mask as ``generate`` does: padding shows if its token differs from end-of-text."""
    config = getattr(model, "generation_config", None)
    pad, eos = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
    ends = eos if isinstance(eos, (list, tuple)) else [eos]
    return prompts.ne(pad) if pad is not None and pad not in ends else None
