"""The scope study of CoachHook (arXiv 2403.05330, section 4): the score of every token of prompts and paraphrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.scope import PARAPHRASE, PROMPT, ScopeRow, ScopeStudy
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from easyedit_lifelong.methods.shared.subject_positions import subject_position
from easyedit_lifelong.models.encoding import encode_text


def study_scope(model: Any, tokenizer: Any, requests: Sequence[EditRequest]) -> ScopeStudy:
    """Return the scores of prompts and paraphrases in the last hook layer of an edited model.

    Args:
        model: a model with CoachHook edits.
        tokenizer: its tokenizer.
        requests: the requests that the model was edited with, or any others.

    Raises:
        EditError: the model has no CoachHook edits, or has them in the weights (``wohk``).
    """
    editor = coachhook_editor(model)
    last_layer = list(editor.alphas)[-1]
    texts = [
        (request, kind, text)
        for request in requests
        for kind, prompts in ((PROMPT, (request.prompt,)), (PARAPHRASE, request.rephrase_prompts))
        for text in prompts
    ]
    scores = z_scores(model, tokenizer, [text for _, _, text in texts])[last_layer]
    rows = tuple(
        ScopeRow(
            request.case_id,
            kind,
            text,
            tuple(tokenizer.decode([token]) for token in encode_text(tokenizer, text)),
            tuple(token_scores.tolist()),
            _lookup_position(tokenizer, text, request.subject, editor.hparams.fact_token),
        )
        for (request, kind, text), token_scores in zip(texts, scores, strict=True)
    )
    threshold = float(editor.hooks[last_layer].threshold(model.dtype))
    return ScopeStudy(last_layer, float(editor.alphas[last_layer]), rows, threshold)


def _lookup_position(tokenizer: Any, text: str, subject: str | None, fact_token: str) -> int | None:
    """Return the index of the lookup token; None if the text does not contain the subject."""
    try:
        return subject_position(tokenizer, text, subject, fact_token) if subject else None
    except DataError:
        return None  # a paraphrase can name the subject in other words
