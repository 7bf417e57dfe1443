"""Texts of the tiny tokenizer's words, and second moments computed the plain way."""

from __future__ import annotations

import pytest

from tests.support.second_moments import make_texts


@pytest.fixture
def texts() -> list[str]:
    return make_texts(30)
