"""What an edited model says, from the command line; beside it, what the base model says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from easyedit_lifelong.commands.saved_edits import Saved
from easyedit_lifelong.edits import load_edits
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.load import context_length

NEW_TOKENS = 20


@dataclass(frozen=True)
class Asking:
    """What is asked, and how the model may answer.

    Attributes:
        prompts: what it continues.
        new_tokens: how many tokens it adds at most.
        temperature: above 0 for sampled text; 0 for greedy text, and so is None without ``top_p``.
        top_p: of sampled text: only the most probable tokens that make up this much.
        seed: of sampled text.
    """

    prompts: Sequence[str]
    new_tokens: int = NEW_TOKENS
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0

    def check(self, model: Any, tokenizer: Any) -> None:
        """Check that every prompt leaves room for an answer.

        Raises:
            DataError: one doesn't, or has no tokens.
        """
        limit = context_length(model) if kind_of(model) is not Kind.CLASSIFIER else None  # which cuts a text off
        for prompt in self.prompts:
            length = len(tokenizer(prompt)["input_ids"])
            if length == 0:
                raise DataError(f"--prompt {prompt!r}: is empty; there is nothing to continue")
            if limit is not None and length > limit:
                raise DataError(f"--prompt {prompt[:40]!r}…: has {length} tokens, the model's context is {limit}")

    def answers(self, model: Any, tokenizer: Any) -> list[str]:
        """Let a model continue the prompts."""
        scorer = scorer_for(model, tokenizer)
        if self.temperature == 0 or (self.temperature is None and self.top_p is None):
            return scorer.generate(model, self.prompts, self.new_tokens)
        how = {"temperature": self.temperature or 1.0, "top_p": self.top_p or 1.0, "top_k": 0}
        texts = []
        for prompt in self.prompts:
            # One at a time and each from the seed, so that no prompt's text depends on its neighbours.
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(self.seed)
                texts += scorer.generate(model, [prompt], self.new_tokens, sampling=how)
        return texts


def generate_session(saved: Saved, asking: Asking, *, compare: bool = False, as_json: bool = False) -> None:
    """Print what the edited model says to each prompt.

    Args:
        saved: the edits and their model.
        asking: the prompts, and how they are continued.
        compare: whether the unedited model is asked, too.
        as_json: print a JSON list instead, for other programs.

    Raises:
        LifelongError: something asked for can't be had.
    """
    model, tokenizer = saved.base_model()
    asking.check(model, tokenizer)
    base = asking.answers(model, tokenizer) if compare else None
    load_edits(model, saved.folder, tokenizer)
    edited = asking.answers(model, tokenizer)
    console = Console()
    if as_json:
        rows = [{"prompt": prompt, "edited": text} for prompt, text in zip(asking.prompts, edited, strict=True)]
        if base is not None:
            rows = [{**row, "base": text} for row, text in zip(rows, base, strict=True)]
        console.out(json.dumps(rows, indent=1, ensure_ascii=False), highlight=False)
        return
    for number, prompt in enumerate(asking.prompts):
        if base is None:
            _say(console, prompt, edited[number])
        else:
            _say(console, prompt, base[number], "base    ")
            _say(console, prompt, edited[number], "edited  ")
        if number + 1 < len(asking.prompts):
            console.print()


def _say(console: Console, prompt: str, text: str, label: str = "") -> None:
    """Print a prompt and its continuation. Some tokenizers leave out the space between them: an arrow stands there."""
    line = Text.assemble((label, "dim"), prompt, (" → ", "dim"), (text.removeprefix(" "), "bold"))
    console.print(line, soft_wrap=True)
