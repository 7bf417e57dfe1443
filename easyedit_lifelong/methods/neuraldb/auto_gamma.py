"""``gamma: auto``: the threshold γ from sentences that no edit is about.

The sample facts that are shipped with this package give about a hundred keys, computed as the keys of edits are, and
sentences. A sentence fires if the input of the projection at any of its tokens is nearer than γ to the key of a subject
that the sentence does not name. γ is the smallest value at which at most a share ``false_fire_rate`` of the sentences
fires: with a larger γ, fewer paraphrases would be answered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.neuraldb.config import NeuralDBHyperParams
from easyedit_lifelong.methods.shared.sample_sentences import Sentences, sample_sentences, threshold_at_rate
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.runner import Runner


@torch.no_grad()
def auto_gamma(
    runner: Runner,
    block: nn.Module,
    projection: nn.Module,
    templates: Templates,
    hparams: NeuralDBHyperParams,
    sentences: Sentences | None = None,
) -> float:
    """Return γ for a model.

    Args:
        runner: runs the model, without NeuralDB's edits.
        block: the edited block.
        projection: its projection, whose inputs are compared.
        templates: the context templates of the keys.
        hparams: ``fact_token``, ``mention_templates`` and ``false_fire_rate`` are used.
        sentences: the sentences; default :func:`sample_sentences`.
    """
    sentences = sentences or sample_sentences()
    pairs = [(subject, prompt) for subject, prompt in sentences.subjects if find_subject(prompt, subject) is not None]
    # The target does not affect the key.
    requests = [EditRequest(n, prompt, subject, subject) for n, (subject, prompt) in enumerate(pairs)]
    facts = [encode_fact(runner.tokenizer, request, templates, hparams, None) for request in requests]
    keys = F.normalize(EditingPasses(runner, facts, [block]).keys_and_outputs(projection)[0].float(), dim=1)
    rows = [encode_text(runner.tokenizer, text) for text in sentences.texts]
    cosines = torch.stack([_cosines(tokens, keys) for tokens in inputs_at(runner, projection, rows)])
    subjects = [subject for subject, _ in pairs]
    return max(0.0, threshold_at_rate(cosines, sentences.texts, subjects, hparams.false_fire_rate))


def _cosines(tokens: Tensor, keys: Tensor) -> Tensor:
    """Return the largest cosine between any token and each key, shape ``(keys,)``.

    Args:
        tokens: the inputs of the projection, shape ``(tokens, inputs)``.
        keys: of unit length, shape ``(keys, inputs)``.
    """
    return (F.normalize(tokens.float(), dim=1) @ keys.t()).amax(dim=0)
