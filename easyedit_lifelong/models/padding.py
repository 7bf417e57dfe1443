"""Find out whether padding changes a model's answers, and batch the rows of such a model by length.

Most models ignore padding, as the attention mask says. Some recurrent ones (RWKV, xLSTM, RecurrentGemma) do not use the
mask: they read padding on the left as text. Padding on the right cannot change a causal language model.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.overrides import without_hooks
from easyedit_lifelong.models.partial_pass import same_logits
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.shared_weights import SharedWeights, weights_of
from easyedit_lifelong.models.wrappers import unwrap_model

# Not an attribute of the model: a model without edits has no trace of this package. Edits do not change the result.
_RESULTS: weakref.WeakKeyDictionary[SharedWeights, bool] = weakref.WeakKeyDictionary()

_SHORT, _LONG = 3, 7
"""Numbers of tokens of the two rows that the model is tried on."""


def padding_changes_answers(model: Any) -> bool:
    """Return whether padding changes what a model predicts.

    The model is tried once; later calls return the same, also for copies that share its weights. Causal language models
    are tried with padding on the left, others with padding on the right, as they are padded in editing and scoring.
    """
    model = unwrap_model(model)
    weights = weights_of(model)
    if weights not in _RESULTS:
        _RESULTS[weights] = kind_of(model) is not ModelKind.MODULE and _try_padding(model)
    return _RESULTS[weights]


def unpadded_groups(model: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of rows in groups that may be padded to one length.

    Args:
        model: the model.
        lengths: the number of tokens of each row.

    Returns:
        One group with all rows; if padding changes the model's answers, one group for each length.
    """
    if len(set(lengths)) < 2 or not padding_changes_answers(model):
        return [list(range(len(lengths)))] if lengths else []
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    return list(groups.values())


def generation_groups(model: Any, rows: int) -> list[list[int]]:
    """Return the indices of rows in groups whose texts may be generated in one batch.

    If padding changes the model's answers, each row is a group. Rows of one length are not enough: RWKV of transformers
    mixes up the rows of a batch when it continues from a state.
    """
    if rows > 1 and padding_changes_answers(model):
        return [[row] for row in range(rows)]
    return [list(range(rows))] if rows else []


@torch.no_grad()
def _try_padding(model: Any) -> bool:
    """Return whether a row has other logits alone than in a batch with a longer row, or cannot be padded at all."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    short, long = ([(5 * n + start) % vocabulary for n in range(count)] for start, count in ((7, _SHORT), (3, _LONG)))
    causal = kind_of(model) is ModelKind.CAUSAL
    # The hooks of edits are for prompts of users.
    with without_hooks(model), evaluating(model):
        alone = _logits(model, [short])[0]
        try:
            padded = _logits(model, [short, long])[0]
        except torch.OutOfMemoryError:
            raise
        except Exception:  # an unknown architecture can fail with any exception
            return True
    if causal:
        alone, padded = alone[-_SHORT:], padded[-_SHORT:]
    return not same_logits(padded.float(), alone.float(), alone.dtype)


def _logits(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits of padded rows; those of an encoder-decoder at the decoder's first token."""
    device, kind = input_device(model), kind_of(model)
    pad = 1  # an ordinary token: the embedding of the padding token can be 0, which hides the effect
    ids, mask = pad_rows(rows, pad, "left" if kind is ModelKind.CAUSAL else "right", device)
    if kind is ModelKind.CAUSAL:
        return Runner(model, None).call(ids, mask, mask.sum(dim=1))
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kind is ModelKind.SEQ2SEQ:
        inputs["decoder_input_ids"] = torch.full((len(rows), 1), model.config.decoder_start_token_id, device=device)
    logits: Tensor = model(**inputs).logits
    return logits
