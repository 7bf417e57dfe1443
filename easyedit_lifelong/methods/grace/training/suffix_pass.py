"""Passes over the part of a causal language model that a GRACE value can change.

A value replaces the edited layer's output from one token on. While the value is trained, all earlier results are
constant: the outputs of the blocks below the layer and, in every block, the attention keys and values of the tokens to
the left. They are computed once. A later pass is the model's own forward pass, in which the lower blocks return their
earlier outputs and a frozen cache holds the tokens to the left. So masks, rotary embeddings, norms and head are the
model's own in every family. The first such pass is compared with the full pass. If they differ, or if the model has no
list of blocks, full passes are used instead.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from easyedit_lifelong.methods.grace.adaptor import GraceAdaptor
from easyedit_lifelong.methods.grace.training.likely_tokens import LikelyTokens, can_restrict, likely_tokens
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass
from easyedit_lifelong.models.anatomy import Anatomy
from easyedit_lifelong.models.encoding import IGNORED, EncodedPair, pad_rows
from easyedit_lifelong.models.linear import FewTokenLinears
from easyedit_lifelong.models.partial_pass import FrozenPrefix, hidden_of, with_hidden
from easyedit_lifelong.models.prompt_positions import full_prompt_layers
from easyedit_lifelong.models.reduced_products import ReducedProducts
from easyedit_lifelong.models.runner import Runner


class SuffixPass(ValuePass):
    """A pass over a batch of requests; see :class:`.ValuePass`.

    Args:
        runner: runs the model, which is in evaluation mode.
        adaptor: the adaptor on the edited layer.
        layer_path: the layer's path in the model.
        pairs: prompt and target of each row.
        pad: the padding token's id.
        anatomy: the blocks and head of the model, for a partial pass; None for full passes.
        value_tokens: for each row, index of the prompt token whose output the value replaces; None for the last token.

    Attributes:
        every_target: whether the layer's queries and outputs are recorded at all tokens that predict the target.
    """

    has_independent_rows = True
    every_target = False

    def __init__(
        self,
        runner: Runner,
        adaptor: GraceAdaptor,
        layer_path: str,
        pairs: Sequence[EncodedPair],
        pad: int,
        anatomy: Anatomy | None,
        value_tokens: Sequence[int] | None = None,
    ) -> None:
        device = runner.device
        prompt_lengths = [len(pair.prompt) for pair in pairs]
        # Every row is cut after its value's token, which is in the last column of `left`.
        cuts = prompt_lengths if value_tokens is None else [index + 1 for index in value_tokens]
        cut_pairs = list(zip(pairs, cuts, strict=True))
        left, left_mask = pad_rows([pair.prompt[:cut] for pair, cut in cut_pairs], pad, "left", device)
        # The model predicts the last target token but need not read it.
        right_rows = [[*pair.prompt[cut:], *pair.target[:-1]] for pair, cut in cut_pairs]
        right, right_mask = pad_rows(right_rows, pad, "right", device)
        targets, target_mask = pad_rows([pair.target for pair in pairs], pad, "right", device)
        block, position = anatomy.block_of(layer_path) if anatomy else None, left.shape[1] - 1
        # With another replacement than replace_last, tokens to the left change, too.
        # Layers of other editors may need complete prompts.
        constant_left = adaptor.replacement == "replace_last" and not full_prompt_layers(runner.model)
        self._start = position if block is not None and constant_left else 0
        blocks = list(anatomy.blocks) if anatomy and block is not None else []
        above = blocks[block:]
        super().__init__(
            adaptor, targets.masked_fill(target_mask == 0, IGNORED), position - self._start, blocks[:block]
        )
        self._runner, self._n_logits = runner, right.shape[1] + 1
        self._above, self._head = above, anatomy.head if anatomy and blocks else None
        self._few_tokens = FewTokenLinears(above if self._head is None else [*above, self._head])
        self._likely: LikelyTokens | None = None
        self._products: ReducedProducts | None = None
        self._ids, self._mask = torch.cat([left, right], dim=1), torch.cat([left_mask, right_mask], dim=1)
        self._prompt_lengths = torch.tensor(prompt_lengths)
        # Distance from the value's token to the token that predicts the first target token, per row.
        self._target_offsets = torch.tensor([len(pair.prompt) - cut for pair, cut in cut_pairs], device=device)
        # A cache made without the model's configuration keeps every token, even where attention is local. The masks
        # restrict attention to the local tokens.
        cache = DynamicCache() if self._start else None
        tokens = targets.shape[1] if self.every_target else 1
        self._run_full_pass(lambda: self._target_logits(self._ids, cache), position, self._start, tokens)
        self._prefix = FrozenPrefix(cache, self._start) if cache is not None else None

    @property
    def is_partial(self) -> bool:
        """Whether a pass runs less than the full model."""
        return super().is_partial or self._start > 0

    def select_rows(self, rows: Tensor) -> SuffixPass:
        """Return a pass over a selection of the rows."""
        selection = copy.copy(self)
        for name in ("queries", "outputs", "targets", "unedited", "_ids", "_mask", "_target_offsets"):
            setattr(selection, name, getattr(self, name)[rows])
        selection._prompt_lengths = self._prompt_lengths[rows.cpu()]
        if self._output_below is not None:
            selection._output_below = with_hidden(self._output_below, hidden_of(self._output_below)[rows])
        selection._prefix = self._prefix.select_rows(rows) if self._prefix is not None else None
        selection._likely = self._likely.select_rows(rows) if self._likely is not None else None
        return selection

    def restricted(self, logits: Tensor, count: int, edits: int) -> SuffixPass | None:
        """Return a pass that computes the logits of likely tokens only, see :meth:`.ValuePass.restricted`.

        Its targets, and the tokens of its logits, are classes of :class:`.LikelyTokens`.
        """
        if not can_restrict(self._head) or count >= logits.shape[-1]:
            return None
        tokens = likely_tokens(self._head, logits, self.targets, count, edits)
        selection = copy.copy(self)
        selection._likely = likely = LikelyTokens.of(self._head, tokens, logits)
        selection.targets = likely.classes_of(self.targets)
        selection.unedited = likely.classes_from_exact(self.unedited)
        return selection

    def rounded(self) -> SuffixPass | None:
        """Return a pass whose blocks compute in bfloat16; see :meth:`.ValuePass.rounded`."""
        if not self._above:
            return None
        selection = copy.copy(self)
        selection._products = ReducedProducts(self._above)
        return selection

    def _forward(self) -> Tensor:
        return self._target_logits(self._ids[:, self._start :], self._prefix)

    def _target_logits(self, ids: Tensor, cache: Any) -> Tensor:
        """Run the model; return the logits that predict the targets, ``(rows, longest target, classes)``."""
        logits = self._runner.call(ids, self._mask, self._prompt_lengths, cache, keep=self._n_logits)
        logits, longest = logits[:, -self._n_logits :], self.targets.shape[1]
        if self._n_logits != longest or self._target_offsets.any():
            positions = self._target_offsets.unsqueeze(1) + torch.arange(longest, device=self._target_offsets.device)
            rows = torch.arange(len(positions), device=positions.device).unsqueeze(1)
            logits = logits[rows, positions.clamp_max(self._n_logits - 1)]
        return logits if self._likely is None else self._likely.classes_from(logits)

    @contextlib.contextmanager
    def _reusing_constants(self) -> Iterator[None]:
        restricting = contextlib.nullcontext() if self._likely is None else self._likely.restricting_head()
        with super()._reusing_constants(), restricting, self._rounding(), self._few_tokens.active():
            yield

    def _rounding(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of :meth:`rounded`, if this is such a pass."""
        return contextlib.nullcontext() if self._products is None else self._products.active()
