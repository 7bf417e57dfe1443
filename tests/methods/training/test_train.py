"""The training loop: when it steps, when it stops, and in which order."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.methods.finetune.penalties import clamp_change
from easyedit_lifelong.methods.training.example_passes import ExampleLosses
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.training.train import Schedule, train

EXAMPLES = [Example(f"case {n}", (n,), (0,)) for n in range(4)]


class Distances:
    """Passes whose loss is the distance of one weight to the number of the example. Within 0.5, it is correct."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def losses(self, examples: Sequence[Example], weights: Any) -> ExampleLosses:
        self.seen.append([example.prompt[0] for example in examples])
        losses = (weights["w"] - torch.tensor(self.seen[-1]).double()).abs()
        return ExampleLosses(losses, losses.detach() < 0.5)


def run(examples: Sequence[Example], schedule: Schedule, start: float = 0.0, **kwargs: Any) -> tuple[Any, ...]:
    passes: Any = Distances()
    weights = {"w": torch.tensor([start], dtype=torch.float64, requires_grad=True)}
    losses = train(passes, weights, examples, schedule, **kwargs)
    return losses, float(weights["w"].detach()), passes.seen


def test_training_stops_before_the_step_when_the_example_is_correct() -> None:
    losses, weight, seen = run(EXAMPLES[3:], Schedule(100, 1.0, stop_when_correct=True))
    # Adam moves by about its learning rate as long as the gradient has one sign.
    assert losses == pytest.approx([3.0, 2.0, 1.0], abs=1e-3)
    assert weight == pytest.approx(3.0, abs=1e-3)
    assert len(seen) == 4


def test_training_stops_below_the_loss_and_makes_no_step_there() -> None:
    losses, weight, _ = run(EXAMPLES[3:], Schedule(100, 1.0, stop_loss=1.5))
    assert losses == pytest.approx([3.0, 2.0], abs=1e-3)
    assert weight == pytest.approx(2.0, abs=1e-3)


def test_training_stops_after_the_last_epoch() -> None:
    losses, _, seen = run(EXAMPLES[3:], Schedule(2, 0.1))
    assert len(losses) == len(seen) == 2


def test_steps_below_the_loss_are_left_out_but_the_epoch_goes_through_all_examples() -> None:
    losses, weight, seen = run(EXAMPLES[:2], Schedule(3, 1e-6, stop_loss=0.4))
    assert seen == [[0], [1]] * 3
    assert losses == pytest.approx([1.0] * 3, abs=1e-4), "the first example is below the limit"
    assert weight == pytest.approx(0.0, abs=1e-4)


def test_examples_share_steps_as_the_schedule_says() -> None:
    losses, _, seen = run(EXAMPLES[:3], Schedule(1, 1e-6, examples_per_step=2))
    assert seen == [[0, 1], [2]]
    assert losses == pytest.approx([0.5, 2.0], abs=1e-4)


def test_examples_are_shuffled_anew_in_each_epoch_and_alike_for_one_seed() -> None:
    def order(seed: int) -> list[int]:
        schedule = Schedule(6, 1e-6, random_order=random.Random(seed))
        return [number for batch in run(EXAMPLES, schedule)[2] for number in batch]

    epochs = [tuple(order(1)[begin : begin + 4]) for begin in range(0, 24, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len(set(epochs)) > 2
    assert order(1) == order(1)
    assert order(1) != order(2)


def test_penalties_are_part_of_the_loss_of_a_step_but_not_of_the_limit() -> None:
    def penalty(examples: Sequence[Example], weights: Any) -> Tensor:
        assert list(examples) == EXAMPLES[:1]
        return 10 * weights["w"].sum()

    losses, weight, _ = run(EXAMPLES[:1], Schedule(1, 1e-3, stop_loss=0.5), 1.0, penalties=[penalty])
    assert losses == pytest.approx([11.0])
    assert weight < 1
    assert run(EXAMPLES[:1], Schedule(1, 1e-3, stop_loss=1.5), 1.0, penalties=[penalty])[0] == []


def test_the_constraint_acts_after_every_step() -> None:
    center = {"w": torch.zeros(1, dtype=torch.float64)}
    limited = run(EXAMPLES[3:], Schedule(5, 1.0), constrain=lambda weights: clamp_change(weights, center, 0.25, "linf"))
    assert limited[0] == pytest.approx([3.0, 2.75, 2.75, 2.75, 2.75])
    assert limited[1] == 0.25


def test_epochs_over_several_steps_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run(EXAMPLES[:1], Schedule(2, 1e-6))
        assert not caplog.records
        run(EXAMPLES[:3], Schedule(2, 1e-6, examples_per_step=2))
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 1 of 2: mean loss 1.0000, 3 examples",
        "epoch 2 of 2: mean loss 1.0000, 3 examples",
    ]
