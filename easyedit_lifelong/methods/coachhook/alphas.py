"""Lower α after a batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode, score_norms
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.models.attention import grouped_queries
from easyedit_lifelong.models.capture import ending_after
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner

_TOKENS_AT_ONCE = 4096
_GOLDEN = (math.sqrt(5) - 1) / 2


def lowered_alphas(
    hooks: Mapping[str, HookLayer],
    alphas: Mapping[str, float],
    passes: EditingPasses,
    facts: Sequence[Fact],
    *,
    edited: bool,
) -> tuple[list[float], dict[str, float]]:
    """Return each prompt's highest z-score in the last layer, and every layer's α after the batch.

    α falls to the smallest of the highest z-scores of the batch's prompts (section 3.2). The authors' code
    takes them in the unedited model. With several layers that isn't what a hook layer meets later: the
    layers below, acting, move its keys. So they can be taken as the edited model will compute them, where
    each layer's new α decides what the layers above see.

    Args:
        hooks: the hook layers by path, from the first to the last, with the batch's ΔW.
        alphas: each one's α so far.
        passes: of the batch's prompts.
        facts: the batch.
        edited: whether to take the z-scores in the edited model.

    Raises:
        EditError: a prompt's tokens can't be told apart.
    """
    lowered = dict(alphas)
    highest: dict[str, Tensor] = {}

    def lower(path: str, scores: Tensor) -> None:
        highest[path] = scores.nan_to_num(nan=float("-inf")).amax(dim=1)
        bad = (~torch.isfinite(highest[path])).nonzero().flatten().tolist()
        if bad:
            request, least = facts[bad[0]].request, "three" if hooks[path].others else "two"
            raise EditError(
                f"{request.where}, field 'prompt': {request.prompt!r} has no z-scores: CoachHook compares a "
                f"prompt's tokens with each other, and needs at least {least} that differ. Use a longer prompt."
            )
        lowered[path] = min(alphas[path], float(highest[path].min()))

    def lower_at_once(path: str, scores: Tensor) -> None:
        lower(path, scores)
        hooks[path].lower(lowered[path])

    with ExitStack() as stack:
        for path, hook in hooks.items():
            stack.enter_context(hook.in_mode(Mode.VALIDATED if edited else Mode.OFF))
            if edited:
                stack.enter_context(hook.recording_scores(functools.partial(lower_at_once, path)))
        inputs, real = passes.inputs_for_prompts([hook.module for hook in hooks.values()])
    if not edited:
        for (path, hook), keys in zip(hooks.items(), inputs, strict=True):
            here = real.to(keys.device)
            norms = hook.change(keys).norm(dim=-1)
            scores = hook.weighed(score_norms(norms, here, others=hook.others), norms)
            lower(path, scores.masked_fill(~here, float("nan")))
    last = list(hooks)[-1]
    return list(highest[last].tolist()), lowered


def keep_in_scope(
    runner: Runner,
    hooks: Mapping[str, HookLayer],
    before: Mapping[str, float],
    lowered: Mapping[str, float],
    prompts: Sequence[Sequence[int]],
    last: nn.Module,
    floor: float = 0.0,
) -> tuple[dict[str, float], set[int]]:
    """Lower α until every prompt, of whatever batch, has a token in scope in every layer of the edited model.

    A batch changes ΔW for the prompts of earlier ones, too: their z-scores sink as edits pile up, and what was in
    scope when it was edited needn't be any more. The paper's rule looks at the new batch only.

    One prompt that hardly stands out would have hooks act nearly everywhere. So a prompt that would need an α below
    the floor, in any layer, is given up: no layer's α falls for it.

    Args:
        runner: of the model.
        hooks: the hook layers by path, from the first to the last.
        before: each one's α before the batch.
        lowered: each one's α by the paper's rule; the hook layers have it.
        prompts: tokens of the bare prompts of all edits.
        last: the last edited block.
        floor: see above.

    Returns:
        Every layer's α, and the numbers of the prompts that were dropped.
    """
    alphas, dropped = dict(lowered), set[int]()
    while True:
        unfit = _lower_for(runner, hooks, alphas, prompts, last, floor, dropped)
        if not unfit:
            return alphas, dropped
        # As if α had never fallen for them.
        dropped |= unfit
        alphas = dict(before)
        for path, hook in hooks.items():
            hook.lower(alphas[path])


def _lower_for(
    runner: Runner,
    hooks: Mapping[str, HookLayer],
    alphas: dict[str, float],
    prompts: Sequence[Sequence[int]],
    last: nn.Module,
    floor: float,
    dropped: set[int],
) -> set[int]:
    """Lower α for all prompts that aren't given up, in place; return those that would need one below the floor."""
    falls, unfit, numbers = 0, set[int](), list[int]()

    def lower(path: str, scores: Tensor) -> None:
        nonlocal falls
        highest = scores.nan_to_num(nan=float("-inf")).amax(dim=1).tolist()
        counted = [
            (number, score)
            for number, score in zip(numbers, highest, strict=True)
            if number not in dropped and math.isfinite(score)  # a prompt without z-scores asks for nothing
        ]
        unfit.update(number for number, score in counted if score < floor)
        needed = min((score for _, score in counted if score >= floor), default=math.inf)
        if needed < float(hooks[path].threshold(runner.model.dtype)):
            alphas[path] = needed
            falls += 1
            hooks[path].lower(needed)

    groups = list(_length_groups(prompts))
    seen = [-1] * len(groups)  # α had fallen so often when a group was done
    while not unfit and min(seen, default=falls) < falls:  # a layer that acts at more tokens moves the keys above it
        for index, numbers in enumerate(groups):
            if seen[index] == falls:
                continue
            rows = [list(prompts[number]) for number in numbers]
            ids, mask = pad_rows(rows, runner.pad, "right", runner.device)
            with ExitStack() as stack:
                for path, hook in hooks.items():
                    stack.enter_context(hook.in_mode(Mode.VALIDATED))
                    stack.enter_context(hook.recording_scores(functools.partial(lower, path)))
                stack.enter_context(torch.no_grad())
                stack.enter_context(ending_after(last))
                stack.enter_context(grouped_queries())
                runner.call(ids, mask, torch.tensor([len(row) for row in rows]))
            seen[index] = falls
    return unfit


def round_robin(prompts: Sequence[Sequence[int]], count: int | None, batch_number: int) -> list[Sequence[int]]:
    """Return which of the earlier prompts are checked after a batch.

    Args:
        prompts: of all earlier edits.
        count: how many to look at, at most; None for all.
        batch_number: the batch's number. With steps of the golden ratio, every prompt is soon checked, however many
            there are.
    """
    if count is None or count >= len(prompts):
        return list(prompts)
    start = int(batch_number * _GOLDEN % 1 * len(prompts))
    return [prompts[number % len(prompts)] for number in range(start, start + count)]


def _length_groups(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the numbers of rows of similar length, in groups of a bounded number of tokens."""
    group: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number])):
        if group and (len(group) + 1) * len(rows[number]) > _TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
