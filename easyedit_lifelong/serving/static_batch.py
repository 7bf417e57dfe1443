"""Generate answers that begin at the same time (static batching), with any model and method.

Prompts are padded on the left, and the model's ``generate`` runs the batch, so that edits find where each prompt ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from easyedit_lifelong.evaluation.stopping import end_tokens
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.linear import FewTokenLinears
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import bare_generation_config, evaluating
from easyedit_lifelong.models.padding import generation_groups
from easyedit_lifelong.serving.generation import Continuation, Row


@torch.no_grad()
def generate_rows(model: Any, tokenizer: Any, rows: Sequence[Row]) -> None:
    """Generate the answers of a batch of rows. Each row's fields are filled in.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        rows: the rows. The longest prompt and the longest answer must fit the model's context together.
    """
    pad, ends = tokenizer.pad_token_id or 0, end_tokens(model, tokenizer)
    ids, mask = pad_rows([row.prompt for row in rows], pad, "left", input_device(model))
    continuations = [Continuation(row, model, tokenizer) for row in rows]
    config = GenerationConfig(
        max_new_tokens=max(row.sampling.max_tokens for row in rows),
        do_sample=False,  # _ChooseTokens samples, row by row
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
    )
    with evaluating(model), bare_generation_config(model), FewTokenLinears.for_generation(model).active():
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_ChooseTokens(continuations)]),
            stopping_criteria=StoppingCriteriaList([_FollowRows(continuations)]),
        )


class StaticBatch:
    """Answers that are generated in one step, from their prompts to their ends.

    Args:
        model_of_rows: returns, for the version of each row, the context of the model that runs these rows.
        model: any of these models.
        tokenizer: the tokenizer.
        max_rows: how many answers can be generated at the same time. Further ones of a single request follow.
    """

    def __init__(
        self,
        model_of_rows: Callable[[Sequence[int]], contextlib.AbstractContextManager[Any]],
        model: Any,
        tokenizer: Any,
        max_rows: int,
    ) -> None:
        self._model_of_rows, self._model, self._tokenizer, self._max_rows = model_of_rows, model, tokenizer, max_rows
        self._context = context_length(model)
        self._versions: list[tuple[Row, int]] = []

    def has_room(self, rows: Sequence[Row]) -> bool:
        """Return whether these answers fit the batch, beside the present ones."""
        return self._fit([*(row for row, _ in self._versions), *rows])

    def add(self, row: Row, version: int) -> None:
        """Add an answer."""
        self._versions.append((row, version))

    def models(self) -> list[Any]:
        """Return no models: between steps, no answer has begun."""
        return []

    def detach_edits(self) -> None:
        """Do nothing: between steps, no edits are attached."""

    def step(self) -> int:
        """Generate all answers, and return their number."""
        for group in self._groups():
            # In some models, padding changes the answers.
            for numbers in generation_groups(self._model, len(group)):
                part = [group[number] for number in numbers]
                with self._model_of_rows([version for _, version in part]) as model:
                    generate_rows(model, self._tokenizer, [row for row, _ in part])
        count = len(self._versions)
        self._versions.clear()
        return count

    def _fit(self, rows: Sequence[Row]) -> bool:
        """Return whether rows fit one batch: their number, and the longest prompt with the longest answer."""
        width = max(len(row.prompt) for row in rows) + max(row.sampling.max_tokens for row in rows)
        return len(rows) <= self._max_rows and (self._context is None or width <= self._context + 1)

    def _groups(self) -> Iterator[Sequence[tuple[Row, int]]]:
        """Yield the answers in groups that fit one batch; only a single request can need several."""
        group: list[tuple[Row, int]] = []
        for entry in sorted(self._versions, key=lambda entry: len(entry[0].prompt)):
            if group and not self._fit([row for row, _ in [*group, entry]]):
                yield group
                group = []
            group.append(entry)
        yield group


class _ChooseTokens(LogitsProcessor):
    """Leaves each row one possible token."""

    def __init__(self, continuations: Sequence[Continuation]) -> None:
        self._continuations = continuations

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores, shape ``(rows, vocabulary)``, with one finite entry in each row that is not finished."""
        chosen = scores.clone()
        for number, (continuation, best) in enumerate(
            zip(self._continuations, scores.argmax(dim=-1).tolist(), strict=True)
        ):
            if continuation.row.finish_reason is None:
                token = continuation.choose(scores[number], best)
                chosen[number] = -torch.inf
                chosen[number, token] = 0.0
        return chosen


class _FollowRows(StoppingCriteria):
    """Adds each new token to its row, and tells which rows are finished."""

    def __init__(self, continuations: Sequence[Continuation]) -> None:
        self._continuations = continuations

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return whether each row is finished, shape ``(rows,)``; ``input_ids`` have shape ``(rows, tokens)``."""
        for continuation, token in zip(self._continuations, input_ids[:, -1].tolist(), strict=True):
            if continuation.row.finish_reason is None:
                continuation.add(token)
        finished = [continuation.row.finish_reason is not None for continuation in self._continuations]
        return torch.tensor(finished, device=input_ids.device)
