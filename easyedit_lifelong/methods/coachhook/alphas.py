"""Lower α after a batch, so that the prompts of edits have a token in scope (arXiv 2403.05330, section 3.2)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode, z_scores_of_norms
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.models.attention import grouped_queries
from easyedit_lifelong.models.capture import ending_after
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner

_MAX_TOKENS = 4096
"""Largest number of tokens, with padding, in a group of prompts."""
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def lowered_alphas(
    hooks: Mapping[str, HookLayer],
    alphas: Mapping[str, float],
    passes: EditingPasses,
    facts: Sequence[Fact],
    *,
    edited: bool,
) -> tuple[list[float], dict[str, float]]:
    """Return the highest score of each prompt in the last hook layer, and α of every hook layer after the batch.

    α falls to the smallest of the highest scores of the batch's prompts (section 3.2). The authors' code computes these
    scores in the base model. With several hook layers, they differ from the scores in the edited model, because hook
    layers change the keys of the layers above. With ``edited``, the scores are those of the edited model. There, the
    new α of a layer takes effect before the scores of the layers above are computed.

    Args:
        hooks: the hook layers by path, from the first to the last, with the batch's ΔW.
        alphas: α of each hook layer before the batch, by path.
        passes: runs the prompts of the batch.
        facts: the batch.
        edited: whether to compute the scores in the edited model.

    Raises:
        EditError: a prompt has no z-scores, since it has too few tokens that differ.
    """
    lowered = dict(alphas)
    highest: dict[str, Tensor] = {}

    def record_scores(path: str, scores: Tensor) -> None:
        highest[path] = _highest_scores(scores)
        no_scores = (~torch.isfinite(highest[path])).nonzero().flatten().tolist()
        if no_scores:
            request, needed = facts[no_scores[0]].request, "three" if hooks[path].leave_one_out else "two"
            raise EditError(
                f"{request.where}, field 'prompt': {request.prompt!r} has no z-scores: CoachHook compares the tokens "
                f"of a prompt with each other, and needs at least {needed} that differ. Use a longer prompt."
            )
        lowered[path] = min(alphas[path], float(highest[path].min()))

    def record_scores_and_set_alpha(path: str, scores: Tensor) -> None:
        record_scores(path, scores)
        hooks[path].set_alpha(lowered[path])

    with ExitStack() as stack:
        for path, hook in hooks.items():
            stack.enter_context(hook.in_mode(Mode.VALIDATED if edited else Mode.OFF))
            if edited:
                stack.enter_context(hook.recording_scores(functools.partial(record_scores_and_set_alpha, path)))
        inputs, is_token = passes.inputs_for_prompts([hook.module for hook in hooks.values()])
    if not edited:
        for (path, hook), keys in zip(hooks.items(), inputs, strict=True):
            mask = is_token.to(keys.device)
            norms = hook.output_change(keys).norm(dim=-1)
            scores = hook.weigh(z_scores_of_norms(norms, mask, leave_one_out=hook.leave_one_out), norms)
            record_scores(path, scores.masked_fill(~mask, float("nan")))
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
    """Lower α until every prompt has a token in scope in every hook layer of the edited model.

    The paper's rule considers only the prompts of the new batch. But a batch changes ΔW for the prompts of earlier
    batches, too. Their scores fall as edits accumulate, so an edit that was in scope can get out of scope.

    A prompt whose tokens hardly differ would need such a low α that hook layers would act on nearly all tokens. So a
    prompt that needs an α below ``floor`` in any layer is dropped: α does not fall for it in any layer.

    Args:
        runner: runs the model.
        hooks: the hook layers by path, from the first to the last. Their α is that of ``lowered``, and is changed.
        before: α of each hook layer before the batch, by path.
        lowered: α of each hook layer by the paper's rule, by path.
        prompts: the token ids of the plain prompts.
        last: the last edited block.
        floor: the lowest α that a prompt can need without being dropped.

    Returns:
        α of each hook layer by path, and the indices of the dropped prompts.
    """
    alphas, dropped = dict(lowered), set[int]()
    while True:
        below_floor = _lower_alphas(runner, hooks, alphas, prompts, last, floor, dropped)
        if not below_floor:
            return alphas, dropped
        # α may have fallen for a prompt that is now dropped, so start again from the α before the batch.
        dropped |= below_floor
        alphas = dict(before)
        for path, hook in hooks.items():
            hook.set_alpha(alphas[path])


def _lower_alphas(
    runner: Runner,
    hooks: Mapping[str, HookLayer],
    alphas: dict[str, float],
    prompts: Sequence[Sequence[int]],
    last: nn.Module,
    floor: float,
    dropped: set[int],
) -> set[int]:
    """Lower α, in ``hooks`` and in ``alphas``, for all prompts that are not dropped.

    The arguments are those of :func:`keep_in_scope`.

    Returns:
        The indices of prompts that need an α below the floor. If there are any, α is not final.
    """
    changes, below_floor, group = 0, set[int](), list[int]()

    def lower_alpha(path: str, scores: Tensor) -> None:
        nonlocal changes
        highest = {
            index: score
            for index, score in zip(group, _highest_scores(scores).tolist(), strict=True)
            if index not in dropped and math.isfinite(score)  # a prompt without scores cannot be in scope
        }
        below_floor.update(index for index, score in highest.items() if score < floor)
        needed = min((score for score in highest.values() if score >= floor), default=math.inf)
        if needed < float(hooks[path].threshold(runner.model.dtype)):
            alphas[path] = needed
            changes += 1
            hooks[path].set_alpha(needed)

    groups = list(_group_by_length(prompts))
    # For each group, how often α had changed when its pass was done. When α falls in a layer, the layer acts on more
    # tokens, and so the keys of the layers above change. The groups before have to be run again.
    changes_seen = [-1] * len(groups)
    while not below_floor and min(changes_seen, default=changes) < changes:
        for number, group in enumerate(groups):
            if changes_seen[number] == changes:
                continue
            rows = [list(prompts[index]) for index in group]
            ids, mask = pad_rows(rows, runner.pad, "right", runner.device)
            with ExitStack() as stack:
                for path, hook in hooks.items():
                    stack.enter_context(hook.in_mode(Mode.VALIDATED))
                    stack.enter_context(hook.recording_scores(functools.partial(lower_alpha, path)))
                stack.enter_context(torch.no_grad())
                stack.enter_context(ending_after(last))
                stack.enter_context(grouped_queries())
                runner.call(ids, mask, torch.tensor([len(row) for row in rows]))
            changes_seen[number] = changes
    return below_floor


def _highest_scores(scores: Tensor) -> Tensor:
    """Return the highest score of each row, shape ``(rows,)``; -inf for a row without scores."""
    return scores.nan_to_num(nan=float("-inf")).amax(dim=1)


def round_robin(prompts: Sequence[Sequence[int]], count: int | None, batch_number: int) -> list[Sequence[int]]:
    """Return the earlier prompts to check after a batch.

    Consecutive batches start at steps of the golden ratio, so that soon every prompt has been checked, however many
    there are.

    Args:
        prompts: the prompts of all earlier edits.
        count: largest number of prompts to return; None: all.
        batch_number: the number of the batch.
    """
    if count is None or count >= len(prompts):
        return list(prompts)
    start = int(batch_number * _GOLDEN_RATIO % 1 * len(prompts))
    return [prompts[number % len(prompts)] for number in range(start, start + count)]


def _group_by_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the indices of rows of similar length, in groups of at most :data:`_MAX_TOKENS` tokens."""
    group: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
        if group and (len(group) + 1) * len(rows[index]) > _MAX_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
