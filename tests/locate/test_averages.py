"""Averages by role of tokens, and the layers that follow from them."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.locate.averages import average_effects, average_severed_effects, token_roles
from easyedit_lifelong.locate.known_facts import KnownFact
from easyedit_lifelong.locate.layer_rule import layers_around_peak, suggest_layers
from easyedit_lifelong.locate.trace import FactTrace


def trace(
    scores: torch.Tensor, subject: tuple[int, int], low: float = 0.1, severed: list[float] | None = None
) -> FactTrace:
    frozen = {"mlp": torch.tensor(severed or [low] * scores.shape[1], dtype=torch.float64)}
    tokens = ["t"] * len(scores)
    return FactTrace(
        KnownFact(0, "p", "s", "a"), tokens, subject, "a", 0.9, low, {"state": scores, "mlp": scores}, frozen
    )


def test_every_token_from_the_subject_on_has_one_role() -> None:
    roles = token_roles(9, (1, 5))
    assert {role: list(tokens) for role, tokens in roles.items()} == {
        "first subject token": [1],
        "middle subject tokens": [2, 3],
        "last subject token": [4],
        "first token after": [5],
        "further tokens": [6, 7],
        "last token": [8],
    }


@pytest.mark.parametrize(
    ("n_tokens", "subject", "expected"),
    [
        (3, (0, 1), {"last subject token": [0], "first token after": [1], "last token": [2]}),
        (2, (0, 1), {"last subject token": [0], "last token": [1]}),
        (2, (0, 2), {"first subject token": [0], "last subject token": [1]}),
    ],
)
def test_short_prompts_lack_roles(n_tokens: int, subject: tuple[int, int], expected: dict[str, list[int]]) -> None:
    assert {role: list(tokens) for role, tokens in token_roles(n_tokens, subject).items()} == expected


def test_effects_are_averaged_over_the_facts_that_have_the_role() -> None:
    one = trace(torch.tensor([[0.2, 0.3], [0.4, 0.5]], dtype=torch.float64), (0, 1))
    two = trace(torch.tensor([[0.3, 0.1], [0.6, 0.9], [0.1, 0.1]], dtype=torch.float64), (0, 2))
    averages = average_effects([one, two], "state")
    assert averages["last subject token"].means == pytest.approx([(0.1 + 0.5) / 2, (0.2 + 0.8) / 2])
    assert averages["first subject token"].means == pytest.approx([0.2, 0.0])
    assert averages["first subject token"].n_facts == 1
    assert averages["first subject token"].intervals is None
    low, high = averages["last subject token"].intervals[0]
    assert (low, high) == pytest.approx((0.1, 0.5))
    assert average_severed_effects([one, two], "mlp").means == pytest.approx([0, 0])


def test_the_layers_around_the_largest_gap_are_suggested() -> None:
    assert layers_around_peak([0.0, 0.4, 0.5, 0.9, 0.45, 0.2, 0.8]) == range(2, 5)
    assert layers_around_peak([0.3]) == range(0, 1)
    assert layers_around_peak([0.0, -0.2]) is None


def test_suggested_layers_follow_from_the_averages() -> None:
    scores = torch.tensor([[0.2, 0.7, 0.6, 0.3], [0.1, 0.1, 0.1, 0.9]], dtype=torch.float64)
    layers = suggest_layers([trace(scores, (0, 1), severed=[0.1, 0.2, 0.3, 0.3])])
    assert layers.single == 1
    assert layers.several == range(1, 3)
    assert layers.gaps == pytest.approx([0.1, 0.5, 0.3, 0.0])
