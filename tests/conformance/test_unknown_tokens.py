"""Every method refuses a request with a token that the model does not embed, and leaves the model unchanged."""

from __future__ import annotations

import pytest

from easyedit_lifelong.errors import DataError
from tests.conformance.method_cases import CASES, REQUESTS, MethodCase
from tests.conformance.observe import assert_unchanged, snapshot_of
from tests.support.tiny_models import VOCABULARY, build_model, build_tokenizer

OWN_CASES = {case.hparams_class: case for case in CASES if not isinstance(case.hparams_class, str)}.values()
"""A case for each method of the package."""


@pytest.mark.parametrize("field", ["prompt", "target_new"])
@pytest.mark.parametrize("case", OWN_CASES, ids=lambda case: case.name)
def test_a_token_that_the_model_does_not_embed_is_refused(case: MethodCase, field: str) -> None:
    tokenizer, model = build_tokenizer(), build_model("llama")
    tokenizer.add_tokens([f"new{number}" for number in range(VOCABULARY)])
    unknown = tokenizer.convert_ids_to_tokens(VOCABULARY)
    before = snapshot_of(model)
    requests = [REQUESTS[0], {**REQUESTS[1], field: f"{unknown} {REQUESTS[1][field]}"}]
    with pytest.raises(DataError, match=rf"hamlet.*'{unknown}' \(number {VOCABULARY}\).*resize_token_embeddings"):
        case.method.apply(model, tokenizer, requests, case.hparams())
    assert_unchanged(model, before)
