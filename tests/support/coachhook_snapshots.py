"""Snapshots of models with CoachHook edits, to test that nothing about a model has changed."""

from __future__ import annotations

from typing import Any

import torch

from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from tests.support.coachhook_edits import FACTS, OTHERS, attributes_and_hooks_of, equal_states
from tests.support.tiny_models import build_tokenizer, state_of

PROMPTS = [*(prompt for prompt, _, _ in FACTS), *OTHERS]


def logits_of(model: Any, prompts: list[str] = PROMPTS) -> list[torch.Tensor]:
    """Return the logits of each prompt, read alone."""
    tokenizer = build_tokenizer()
    with torch.no_grad():
        return [model(**tokenizer(prompt, return_tensors="pt")).logits for prompt in prompts]


def all_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Tell whether two lists hold bitwise the same tensors."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Snapshot:
    """Everything about a model that a CoachHook edit may change."""

    def __init__(self, model: Any) -> None:
        self.state, self.logits, self.modules = state_of(model), logits_of(model), attributes_and_hooks_of(model)
        editor = CoachHookEditor.of(model)
        self.batches = list(editor.state.batches) if editor else None
        self.alphas = editor.alphas if editor else None
        self.c_accu = {path: solver.matrix() for path, solver in editor._solvers.items()} if editor else {}

    def assert_unchanged(self, model: Any) -> None:
        """Compare the model with this snapshot, bitwise."""
        now = Snapshot(model)
        assert equal_states(now.state, self.state)
        assert all_equal(now.logits, self.logits)
        assert now.modules == self.modules
        assert now.batches == self.batches
        assert now.alphas == self.alphas
        assert now.c_accu.keys() == self.c_accu.keys()
        assert all(torch.equal(now.c_accu[path], matrix) for path, matrix in self.c_accu.items())
