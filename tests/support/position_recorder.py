"""A tracked model that records where prompts end in each forward pass, and batches to run it on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.prompt_positions import PositionTracker

PAD = 0
SHORT, LONG = [5, 6, 7], [8, 9, 10, 11, 12]


class PositionRecorder:
    """A tracked model, and the prompt ends of each of its forward passes.

    Attributes:
        model: the tracked model.
        tracker: its position tracker.
        ends: for each pass, the prompt end of each row, or ``None`` where the tracker had no window.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tracker = PositionTracker.attach(model)
        self.ends: list[list[int] | None] = []
        self.handle = model.get_input_embeddings().register_forward_hook(self._record)

    def _record(self, *_: Any) -> None:
        window = self.tracker.window
        self.ends.append(None if window is None else window.ends.tolist())

    def close(self) -> None:
        """Remove the hook and the tracker."""
        self.handle.remove()
        self.tracker.detach()


def padded_batch(side: Any, *rows: list[int]) -> dict[str, torch.Tensor]:
    """Return the model's inputs for rows, by default ``SHORT`` and ``LONG``, padded on one side."""
    ids, mask = pad_rows(rows or (SHORT, LONG), PAD, side)
    return {"input_ids": ids, "attention_mask": mask}


def greedy_config(tokens: int, **options: Any) -> GenerationConfig:
    """Return settings of greedy decoding without an end of text, so that the number of passes is known."""
    return GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=PAD, **options)
