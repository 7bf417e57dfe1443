"""The retrieval methods and their ports."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.retrieval.config import RetrievalHyperParams, SERACHyperParams
from easyedit_lifelong.methods.retrieval.editor import EDITORS, RetrievalEditor
from easyedit_lifelong.methods.retrieval.embedding import embedder_for
from easyedit_lifelong.methods.retrieval.explain import explain
from easyedit_lifelong.methods.retrieval.make_edits import apply_retrieval_to_model
from easyedit_lifelong.methods.retrieval.scope_classifier import load_classifier
from easyedit_lifelong.methods.retrieval.store import RetrievalStore
from easyedit_lifelong.methods.shared.causal_check import check_causal
from easyedit_lifelong.methods.shared.encoded_requests import encode_request
from easyedit_lifelong.models.context_attachment import inner_model
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.pair_encoders import encoder_for


def check_model(model: Any, tokenizer: Any, hparams: RetrievalHyperParams) -> None:
    """Check that a model can read texts in front of prompts, and embed prompts as the hyperparameters say.

    Raises:
        ModelError: it cannot.
        HyperParameterError: the sentence encoder cannot be used.
        RunError: the scope classifier cannot be used.
    """
    check_causal(model, hparams.ALG_NAME)
    inner_model(model)
    embedder_for(model, tokenizer, hparams)
    if isinstance(hparams, SERACHyperParams) and hparams.scope_classifier is not None:
        load_classifier(hparams.scope_classifier, model, hparams)


def check_requests(model: Any, tokenizer: Any, hparams: RetrievalHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check each request by itself.

    Raises:
        DataError: a request cannot be encoded, or is too long for the model.
    """
    encode, limit = encoder_for(model, tokenizer), context_length(model)
    for request in requests:
        encode_request(encode, request, limit)


def count_keys(editor_class: type[RetrievalEditor], model: Any) -> dict[str, float]:
    """Return the number of edits that can answer: those without a later edit of the same prompt."""
    return {"n_keys": sum(len(editor.answering) for editor in editor_class.all_on(model))}


def _method(editor_class: type[RetrievalEditor]) -> EditMethod:
    """Return the method of an editor."""
    name, store = editor_class.hparams_class.ALG_NAME, RetrievalStore(editor_class)
    return EditMethod(
        name,
        editor_class.hparams_class,
        apply_retrieval_to_model,
        batchable=True,
        check=check_model,
        check_requests=check_requests,
        edits=store,
        counts=functools.partial(count_keys, editor_class),
        remove=store,
        explain=functools.partial(explain, editor_class),
        describe=store.describe,
        merge=store.merge,
        reasons={
            "plain_weights": f"{name}'s edits can't be put into plain weights: they are texts in front of prompts. "
            "Save these edits and put them on the model with load_edits, or edit with MEMIT-native, whose updates are "
            "weights.",
            "remove_batches": f"{name}'s edits are rolled back case by case",
        },
    )


METHODS = tuple(_method(editor_class) for editor_class in EDITORS)
"""``IKE-native`` and ``SERAC-native``."""
