"""A runner calls any language model on padded rows, with or without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.windows import Window
from tests.support.tiny_models import build_model, build_tokenizer

ROWS = [[4, 5, 6, 7, 8], [9, 10], [11, 12, 13]]


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_no_logits(family: str, side: Any) -> None:
    model = build_model(family)
    runner = Runner(model, build_tokenizer())
    ids, mask = pad_rows(ROWS, runner.pad, side, runner.device)
    logits = runner.call(ids, mask, [len(row) for row in ROWS])
    for number, row in enumerate(ROWS):
        alone = model(torch.tensor([row])).logits[0]
        torch.testing.assert_close(logits[number][mask[number].bool()], alone, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_a_pass_after_a_cache_gives_the_logits_of_the_full_pass(family: str) -> None:
    model = build_model(family)
    runner = Runner(model, build_tokenizer())
    ids, mask = pad_rows(ROWS, runner.pad, "left", runner.device)
    full = runner.call(ids, mask, [len(row) for row in ROWS])
    cache = DynamicCache()
    runner.call(ids[:, :3], mask[:, :3], [1, 1, 1], cache)
    rest = runner.call(ids[:, 3:], mask, [len(row) for row in ROWS], cache)
    torch.testing.assert_close(rest, full[:, 3:], rtol=1e-4, atol=1e-3)


def test_calls_report_prompt_ends_to_the_position_tracker() -> None:
    model = build_model("llama")
    tracker = PositionTracker.attach(model)
    windows: list[Window | None] = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: windows.append(tracker.window))
    runner = Runner(model, build_tokenizer())
    ids, mask = pad_rows(ROWS, runner.pad, "left", runner.device)
    runner.call(ids, mask, torch.tensor([2, 1, 9]))
    (window,) = windows
    assert window is not None
    assert window.ends.tolist() == [1, 3, -1]
    assert torch.equal(window.real, mask.bool())
    assert window.past == 0
    assert window.generation is None
    cache: Any = DynamicCache()
    runner.call(ids[:, :3], mask[:, :3], [5, 1, 1], cache)
    runner.call(ids[:, 3:], mask, [5, 2, 1], cache)
    window = windows[-1]
    assert window is not None
    assert (window.past, window.ends.tolist()) == (3, [1, 1, -1])
    assert torch.equal(window.real, mask[:, 3:].bool())


def test_a_tokenizer_without_padding_and_a_model_without_blocks_work() -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None

    class Flat(torch.nn.Module):
        """A model without a list of blocks and without position ids."""

        def __init__(self) -> None:
            super().__init__()
            self.embeddings = torch.nn.Embedding(64, 8)

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return self.embeddings

        def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = True) -> Any:
            assert not use_cache
            return type("Out", (), {"logits": self.embeddings(input_ids)})

    runner = Runner(Flat(), tokenizer)
    assert (runner.pad, runner.anatomy) == (0, None)
    assert runner.call(torch.tensor([[4]]), torch.tensor([[1]]), [1]).shape == (1, 1, 8)
