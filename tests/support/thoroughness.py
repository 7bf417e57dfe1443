"""How thoroughly the tests run.

``sh run.sh test`` runs those cases that together cover every behaviour; ``sh run.sh test --full`` runs all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings

full = False
"""Whether all cases run; ``--full`` sets it before the tests are collected."""


def default_cases(cases: Iterable[Any], *default: Any) -> list[Any]:
    """Return the cases for ``parametrize``; only those in ``default`` run without ``--full``."""
    cases = list(cases)
    unknown = [case for case in default if case not in cases]
    assert not unknown, f"no such cases: {unknown}"
    return [case if case in default else _only_in_full(case) for case in cases]


def _only_in_full(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full)


def examples(count: int) -> settings:
    """Return hypothesis settings for ``count`` examples, or five times as many with ``--full``."""
    return settings(max_examples=5 * count if full else count, deadline=None)
