"""Code that the methods' apply functions share."""

from __future__ import annotations

import copy as copying
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from easyedit_lifelong.data.joiners import joiner_of, with_joiner
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import DataError, EditError, NotLearnedWarning
from easyedit_lifelong.evaluation.chat_requests import check_no_turns
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.models.model_lock import holding_lock, model_lock
from easyedit_lifelong.models.pair_encoders import encoder_for, has_unknown_tokens


class Editor(Protocol):
    """Applies a method's edits to one model."""

    def edit(self, requests: Sequence[EditRequest]) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply all requests, or none of them if one fails.

        Returns:
            One result per request, and a function that undoes these edits.
        """


def apply_requests(
    editor_on: Callable[[Any, Any, Any], Editor],
    model: Any,
    tokenizer: Any,
    requests: Sequence[Any],
    hparams: Any,
    *,
    copy: bool,
    keep_original_weight: bool,
) -> tuple[Any, Rollback[EditResult]]:
    """Validate requests and apply them with a model's editor.

    Args:
        editor_on: ``editor_on(model, tokenizer, hparams)`` returns the editor of a model, which it creates if the model
            has none.
        model: the model.
        tokenizer: its tokenizer.
        requests: requests in EasyEdit's fields, or :class:`EditRequest` objects.
        hparams: the method's hyperparameters; ``joiner`` is used.
        copy: whether to edit a copy of the model instead of the model.
        keep_original_weight: whether iterating the rollback's ``.items()`` undoes the edits; see :class:`Rollback`.

    Returns:
        The edited model, and a rollback of these edits.

    Raises:
        DataError: a request can't be used, has a token that the model does not embed, or there are none.
        EditError: an edit failed.
        NotLearnedWarning: an edit was not learned, and the caller has turned this warning into an error. Then the model
            is unchanged.
    """
    valid = with_joiner(as_requests(requests), joiner_of(hparams))
    check_no_turns(valid)
    if not valid:
        raise DataError("there are no requests to edit")
    _check_vocabulary(model, tokenizer, valid)
    if copy:
        with model_lock(model):
            model = copying.deepcopy(model)
    with model_lock(model):
        results, undo = editor_on(model, tokenizer, hparams).edit(valid)
        if not all(result.learned for result in results):
            try:
                # One text for all requests: Python shows it once for each line of code that calls the method.
                warnings.warn(
                    "an edit was not learned: the model does not give its target. In the rollback's results, such "
                    "edits have learned=False. More optimisation steps or another layer may help.",
                    NotLearnedWarning,
                    stacklevel=3,
                )
            except NotLearnedWarning:  # the caller has turned warnings into errors, so the rollback would be lost
                undo()
                raise
    return model, Rollback(holding_lock(model, undo), on_items=keep_original_weight, results=results)


def _check_vocabulary(model: Any, tokenizer: Any, requests: Sequence[EditRequest]) -> None:
    """Check that a model embeds the tokens of requests: a tokenizer can have more tokens than the model.

    Raises:
        DataError: it does not embed one.
    """
    if not has_unknown_tokens(model, tokenizer):
        return
    encode = encoder_for(model, tokenizer)
    for request in requests:
        try:
            encode(request.prompt, request.target_new, request.joiner)
        except DataError as error:
            raise DataError(f"{request.where}: {error}") from error


def check_same_settings(carried: str, old: Any, new: Any, names: Sequence[str], remedy: str) -> None:
    """Check that new edits have the same settings as the edits that a model already has.

    Args:
        carried: the beginning of the error message, such as "layer 3 carries GRACE edits".
        old: the hyperparameters of the existing edits.
        new: the hyperparameters of the new edits.
        names: the names of the settings that must be equal.
        remedy: the end of the error message: what the user can do.

    Raises:
        EditError: a setting differs.
    """
    for name in names:
        old_value, new_value = getattr(old, name), getattr(new, name)
        if old_value != new_value:
            raise EditError(
                f"{carried} made with {name}={old_value!r}; they can't be continued with {name}={new_value!r}. {remedy}"
            )
