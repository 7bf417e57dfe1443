"""The figures of a scope study equal values computed by hand."""

from __future__ import annotations

import pytest

from easyedit_lifelong.evaluation.scope import PARAPHRASE, PROMPT, ScopeStudy
from tests.support.scope_rows import SCOPE, row


def test_the_summary_equals_figures_computed_by_hand() -> None:
    assert SCOPE.summary() == {
        PROMPT: {
            "n": 3,
            "n_subject": 3,
            "highest": pytest.approx(1 / 3),
            "reaches_alpha": pytest.approx(1 / 3),
            "acts": pytest.approx(2 / 3),
            "elsewhere": pytest.approx(1 / 3),
            "z_subject": 1.5,
            "z_other": pytest.approx((0 - 1 + 1.5 + 0.5) / 4),
        },
        PARAPHRASE: {
            "n": 2,
            "n_subject": 1,
            "highest": 1.0,
            "reaches_alpha": 1.0,
            "acts": 0.5,
            "elsewhere": 0.5,
            "z_subject": 3.0,
            "z_other": pytest.approx((0.5 + 0.25 + 2 + 1) / 4),
        },
    }


def test_a_score_acts_if_it_reaches_the_hooks_rounded_threshold() -> None:
    scope_row = row(PROMPT, [0.0, 1.4999], 1)
    assert ScopeStudy("m", 1.5, (scope_row,), threshold=1.5).summary()[PROMPT]["acts"] == 0
    assert ScopeStudy("m", 1.5, (scope_row,), threshold=1.499).summary()[PROMPT]["acts"] == 1
