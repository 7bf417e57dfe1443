"""The keys that the tokens of a prompt match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class MatchedKeys(NamedTuple):
    """The keys that match some token of one prompt.

    Attributes:
        keys: indices of the keys, shape ``(keys,)``.
        nearness: distance from each key to its nearest token, divided by the key's radius, ``(keys,)``.
        column: column of that token in the full prompt, ``(keys,)``; of equally near tokens, the last.
    """

    keys: Tensor
    nearness: Tensor
    column: Tensor


MatchesByRow = dict[int, MatchedKeys]
"""The keys that each row's prompt matches, by row number. Rows without a match are left out."""


@dataclass(frozen=True)
class PassMatches:
    """Result of one pass at the key layer, which the answer layer of the same pass reads.

    Attributes:
        by_row: the keys that each row's prompt matches.
        queries: the query of every token, ``(batch, tokens, key_size)``.
        looked_up: whether each token was looked up, ``(batch, tokens)``.
        token_keys: the key that each token matches; of several, the nearest in units of its radius. -1 where no key
            matches. Shape ``(batch, tokens)``.
    """

    by_row: MatchesByRow
    queries: Tensor
    looked_up: Tensor
    token_keys: Tensor


def matched_keys(nearness: Tensor, columns: Tensor) -> MatchedKeys:
    """Return the keys that match at least one of some tokens.

    Args:
        nearness: distance of every token to every key, divided by the key's radius, ``(tokens, keys)``.
        columns: each token's column in the full prompt, ascending, ``(tokens,)``.
    """
    nearest = nearness.amin(dim=0)
    keys = (nearest <= 1).nonzero().flatten()
    is_nearest_token = nearness[:, keys] == nearest[keys]
    last_nearest_column = torch.where(is_nearest_token, columns.unsqueeze(1), -1).amax(dim=0)
    return MatchedKeys(keys, nearest[keys], last_nearest_column)


def merge_matches(earlier: MatchedKeys, later: MatchedKeys) -> MatchedKeys:
    """Return the keys that a prompt in two chunks matches, from the matches of each chunk."""
    keys = torch.cat([earlier.keys, later.keys]).unique()
    shape = (2, int(keys[-1]) + 1)  # (chunks, keys)
    nearness, columns = earlier.nearness.new_full(shape, float("inf")), earlier.column.new_full(shape, -1)
    for chunk, matches in enumerate((earlier, later)):
        nearness[chunk, matches.keys], columns[chunk, matches.keys] = matches.nearness, matches.column
    # First treat each chunk as one token, then look up the true columns.
    by_chunk = matched_keys(nearness, torch.arange(2, device=keys.device))
    return by_chunk._replace(column=columns[by_chunk.column, by_chunk.keys])
