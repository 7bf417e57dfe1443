"""Encode requests as token ids, with errors that name the record and the field."""

from __future__ import annotations

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.pair_encoders import Encode


def encode_request(
    encode: Encode, request: EditRequest, context_limit: int | None, text: str | None = None
) -> EncodedPair:
    """Return the token ids of a request's prompt and target.

    Args:
        encode: encodes a prompt and its answer for the model.
        request: the request.
        context_limit: the longest row that the model reads, in tokens; None: unknown.
        text: a text to encode in place of the prompt.

    Raises:
        DataError: prompt or target can't be used; the message names the record and the field.
    """
    try:
        pair = encode(request.prompt if text is None else text, request.target_new, request.joiner)
    except DataError as error:
        raise DataError(f"{request.where}, field 'target_new': {error}") from error
    if context_limit is not None and pair.length > context_limit:
        raise DataError(
            f"{request.where}, field 'prompt': prompt and target have {pair.length} tokens, the "
            f"model's context is {context_limit}. Shorten the prompt or leave the record out."
        )
    return pair
