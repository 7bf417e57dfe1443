"""Train GRACE values with fast passes that are nearly exact, and check them with exact passes.

A fast pass computes the logits of likely tokens only (``likely_tokens``), or matrix products in bfloat16
(``train_dtype``), or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training import optimise
from easyedit_lifelong.methods.grace.training.optimise import TrainedValue, evaluate, require_finite_loss
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass, rows_of_edits
from easyedit_lifelong.models.reduced_products import reduces_products

_ROUNDS = 3
"""How often values are trained with fast passes. A value that still fails the check is then trained with exact ones."""

_STRICTER = 0.7
"""Factor of ``stop_loss`` in fast passes: the loss with all tokens is somewhat higher than that with likely ones."""


def train_and_check(
    value_pass: ValuePass, starts: Tensor, hparams: GraceHyperParams, identities: Sequence[str], where: Sequence[str]
) -> list[TrainedValue]:
    """Train the values of a batch of edits as :func:`.optimise.train_values` does, with the same arguments.

    With ``likely_tokens``, a pass computes the logits of that many tokens for each edit (:class:`.LikelyTokens`); with
    ``train_dtype``, it rounds the factors of matrix products (:class:`.ReducedProducts`). When all edits have stopped,
    an exact pass checks their values. An edit that fails is trained further, from its value, with the tokens that are
    likely at this value. So loss and success of every result are exact.

    Raises:
        EditError: a loss or a value became NaN or infinite; the message names the edit.
    """
    rounded = value_pass.rounded() if reduces_products(hparams.train_dtype, starts.device) else None
    if not hparams.likely_tokens and rounded is None:
        return optimise.train_values(value_pass, starts, hparams, identities, where)
    rows_per_edit = len(value_pass.targets) // len(starts)
    trained: dict[int, TrainedValue] = {}
    edits, values, logits = list(range(len(starts))), starts, value_pass.unedited
    steps = [0] * len(starts)
    stricter = replace(hparams, stop_loss=_STRICTER * hparams.stop_loss)
    for number in range(_ROUNDS + 1):
        fast = _fast_pass(value_pass, rounded, logits, hparams.likely_tokens, len(edits)) if number < _ROUNDS else None
        results = optimise.train_values(
            fast or value_pass,
            values,
            hparams if fast is None else stricter,
            [identities[edit] for edit in edits],
            [where[edit] for edit in edits],
            steps,
        )
        trained |= dict(zip(edits, results, strict=True))
        if fast is None:
            break
        values = torch.stack([result.value for result in results])
        outcomes, logits = evaluate(value_pass, values, hparams.kl_factor)
        failed = list[int]()
        for n, (edit, result) in enumerate(zip(edits, results, strict=True)):
            trained[edit] = outcomes.trained_value(n, 0, result.value, result.steps)
            require_finite_loss(trained[edit], where[edit])
            if result.steps < hparams.n_iter and not outcomes.best(n, hparams)[1]:
                failed.append(n)
        if not failed:
            break
        rows = torch.tensor(rows_of_edits(failed, rows_per_edit), device=logits.device)
        value_pass, values, logits = value_pass.select_rows(rows), values[failed], logits[rows]
        rounded = None if rounded is None else rounded.select_rows(rows)
        edits, steps = [edits[n] for n in failed], [results[n].steps for n in failed]
    return [trained[edit] for edit in range(len(starts))]


def _fast_pass(
    exact: ValuePass, rounded: ValuePass | None, logits: Tensor, likely_tokens: int, edits: int
) -> ValuePass | None:
    """Return a pass that is faster than the exact one; None if there is none.

    Args:
        exact: the exact pass.
        rounded: the same with products in bfloat16; None if these aren't wanted or possible.
        logits: logits of an exact pass, ``(rows, targets, classes)``.
        likely_tokens: number of likely tokens for each edit; 0 for all tokens.
        edits: number of edits; each has the same number of consecutive rows.
    """
    restricted = (rounded or exact).restricted(logits, likely_tokens, edits) if likely_tokens else None
    return restricted or rounded
