"""Tell from the codebook whether an answer can have changed, without another pass of the model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.named_layers import find_layer
from easyedit_lifelong.methods.grace.subject.subject_layer import AnswerLayerAdaptor, SubjectAdaptor
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.runner import Runner


def watch_answers(model: Any, tokenizer: Any, questions: Sequence[EncodedPair]) -> list[Callable[[], Hashable]]:
    """Return functions that tell whether answers can have changed; see :data:`~.methods.base.WatchAnswers`.

    GRACE's edits act at the key layer or above it. So the queries of a question are the same after any edit. They are
    computed once; the functions compare them with the keys of the moment.
    """
    editors = GraceEditor.all_of(model)
    if len(editors) != 1:
        return [object] * len(questions)  # a new object each time: the answer may always have changed
    ((path, editor),) = editors.items()
    _, key_layer = find_layer(editor.model, editor.hparams)
    rows = [question.tokens[:-1] for question in questions]  # the last token predicts nothing
    inputs = inputs_at(Runner(editor.model, tokenizer), key_layer, rows)
    return [
        functools.partial(_acting_keys, model, path, _queries(editor, of_row, len(question.prompt)))
        for of_row, question in zip(inputs, questions, strict=True)
    ]


def _queries(editor: GraceEditor, inputs: Tensor, prompt_length: int) -> Tensor:
    """Return the queries that are looked up for one question, ``(queries, key_size)``.

    Args:
        editor: the editor of the key layer.
        inputs: the key layer's input at every token, ``(tokens, width)``.
        prompt_length: the number of the prompt's tokens.
    """
    adaptor = editor.adaptor
    if isinstance(adaptor, SubjectAdaptor):
        return adaptor.queries(inputs)
    position = 0 if adaptor.query_token == "first" else prompt_length - 1
    return inputs[position : position + 1]


def _acting_keys(model: Any, path: str, queries: Tensor) -> Hashable:
    """Return the keys that can act on the question, with their content.

    Args:
        model: the edited model.
        path: path of the key layer.
        queries: the queries of the question, ``(queries, key_size)``.
    """
    editor = GraceEditor.all_of(model).get(path)
    if editor is None or editor.codebook is None:
        return ()
    codebook, adaptor = editor.codebook, editor.adaptor
    if codebook.further_keys is not None:  # these are looked up at another layer
        return object()
    if isinstance(adaptor, AnswerLayerAdaptor):
        keys = _keys_in_reach(codebook, queries, adaptor.named_subjects.radius if adaptor.named_subjects else 0.0)
    else:
        keys = codebook.lookup(queries).tolist()  # -1 where no key acts
    return tuple(None if key < 0 else _content(codebook, key) for key in keys)


def _content(codebook: Codebook, key: int) -> Hashable:
    """Return a key's index, its radius and its value, which includes the gate."""
    row = codebook.row(key).tensors
    return key, float(row.radius), row.value.cpu().numpy().tobytes()


def _keys_in_reach(codebook: Codebook, queries: Tensor, at_least: float) -> list[int]:
    """Return the keys whose radius contains a query. An answer layer chooses among them.

    Args:
        codebook: the codebook.
        queries: shape ``(queries, key_size)``.
        at_least: replaces smaller radii.
    """
    near = queries[codebook.within_any_radius(queries, at_least)]
    if not len(near):
        return []
    keys: list[int] = codebook.relative_distances(near, at_least).isfinite().any(dim=0).nonzero().flatten().tolist()
    return keys
