"""Train the further keys of an edit, which continue a target that is too long for one value.

One value at the prompt's last token gives a sentence, but not a paragraph. With ``tokens_per_key``, the first key's
value is trained to give the first tokens of the target only. Further keys follow at equal distances in the target: each
is the layer's input after the target's tokens so far, has its own value, and matches that text alone. Where some tokens
are still wrong after a number of steps, a key is added before each of them, and the training continues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import KeyTensors
from easyedit_lifelong.methods.grace.codebook.decisions import Row
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.answer_pass import AnswerPass
from easyedit_lifelong.methods.grace.training.optimise import TrainedValue, train_values
from easyedit_lifelong.methods.grace.training.train_batch import PendingEdit
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized, pairwise_distances
from easyedit_lifelong.models.encoding import EncodedPair

RADIUS = 0.01
"""Largest radius of a further key, a cosine distance."""

ROUNDS = 5
"""Number of parts into which ``n_iter`` is divided. After each part, keys are added where the text is wrong."""


def first_part(pair: EncodedPair, tokens_per_key: int) -> EncodedPair:
    """Return a pair with the part of its target that the first key's value has to give."""
    return dataclasses.replace(pair, target=pair.target[:tokens_per_key]) if tokens_per_key else pair


def train_further_keys(
    answer_pass: AnswerPass,
    first: TrainedValue,
    codebook: Codebook,
    hparams: GraceHyperParams,
    edit: PendingEdit,
) -> tuple[list[Row], TrainedValue]:
    """Train the values of an edit's further keys, all in the same passes, in at most ``n_iter`` steps.

    Args:
        answer_pass: the pass over the edit's prompt and target.
        first: the trained value of the edit's first key.
        codebook: the codebook; it is not changed.
        hparams: GRACE's hyperparameters.
        edit: the edit.

    Returns:
        The rows of the further keys, and the outcome of the training of both the first and the further values.
    """
    states, target = answer_pass.queries[0], edit.label
    places = _places(states, len(target), codebook.further_keys, hparams.tokens_per_key)
    values, steps = answer_pass.outputs[0].clone(), 0  # of all tokens; those of keys are trained
    while True:
        answer_pass.set_values(first.value, places)
        n_iter = min(-(-hparams.n_iter // ROUNDS), hparams.n_iter - steps)
        settings = dataclasses.replace(hparams, n_iter=n_iter)
        starts = values[places].flatten().unsqueeze(0)
        (trained,) = train_values(answer_pass, starts, settings, [edit.identity], [edit.where])
        values[places], steps = trained.value.view(len(places), -1), steps + trained.steps
        if trained.steps < n_iter or steps >= hparams.n_iter:
            break
        places = sorted({*places, *answer_pass.wrong_tokens(trained.value)} - {0})
    rows = [
        Row(-1, target[place:], KeyTensors(states[place], values[place], radius))
        for place, radius in zip(places, _radii(states, places), strict=True)
    ]
    return rows, dataclasses.replace(trained, value=first.value, steps=first.steps + steps)


def _places(states: Tensor, n_tokens: int, further_keys: Codebook | None, tokens_per_key: int) -> list[int]:
    """Return where an edit gets further keys: for each, the number of target tokens before it.

    There is one after every ``tokens_per_key`` tokens, and one wherever a key of an earlier edit matches the text of
    this edit, so that no other edit's value acts in it.

    Args:
        states: the layer's input at each token that predicts a target token, shape ``(n_tokens, width)``.
        n_tokens: number of target tokens.
        further_keys: the further keys of earlier edits.
        tokens_per_key: see :class:`.GraceHyperParams`.
    """
    places = set(range(tokens_per_key, n_tokens, tokens_per_key))
    if further_keys is not None:
        matched = further_keys.lookup(states.to(further_keys.device)) >= 0
        places |= set(matched.nonzero().flatten().tolist()) - {0}
    return sorted(places)


def _radii(states: Tensor, places: Sequence[int]) -> Tensor:
    """Return the radii of further keys, ``(keys,)``: half the distance to the nearest other state of the same text."""
    vectors = normalized(states, COS)
    distances = pairwise_distances(vectors[list(places)], vectors, COS)
    distances[torch.arange(len(places)), list(places)] = float("inf")
    return (distances.amin(dim=1) / 2).clamp_max(RADIUS)
