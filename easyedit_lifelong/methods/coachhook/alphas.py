"""Lower α after a batch, so that the prompts of edits have a token in scope (arXiv 2403.05330, section 3.2)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.hook import Mode
from easyedit_lifelong.methods.coachhook.layer import HookLayer, z_scores_of_norms
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.facts import Fact
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
    """Lower α for the prompts of a batch (section 3.2).

    Each prompt has a highest score in each hook layer. α of the layer falls to the smallest of these. The authors' code
    computes the scores in the base model. With several hook layers, they differ from the scores in the edited model,
    because hook layers change the keys of the layers above. With ``edited``, they are computed in the edited model.
    There, the new α of a layer takes effect before the scores of the layers above are computed.

    Args:
        hooks: the hook layers by path, from the first to the last, with the batch's ΔW.
        alphas: α of each hook layer before the batch, by path.
        passes: runs the prompts of the batch.
        facts: the batch.
        edited: whether to compute the scores in the edited model.

    Returns:
        The highest score of each prompt in the last hook layer, and α of every hook layer after the batch, by path.

    Raises:
        EditError: a prompt has no z-scores, since it has too few tokens that differ.
    """
    lowered = dict(alphas)
    highest: dict[str, Tensor] = {}

    def lower_alpha(path: str, scores: Tensor) -> None:
        highest[path] = _highest_scores(scores)
        _check_scores(highest[path], facts, hooks[path])
        lowered[path] = min(alphas[path], float(highest[path].min()))
        if edited:
            hooks[path].set_alpha(lowered[path])

    modules = [hook.module for hook in hooks.values()]
    with ExitStack() as stack:
        for path, hook in hooks.items():
            stack.enter_context(hook.in_mode(Mode.VALIDATED if edited else Mode.OFF))
            if edited:
                stack.enter_context(hook.recording_scores(functools.partial(lower_alpha, path)))
        inputs, is_token = passes.inputs_for_prompts(modules)
    if not edited:
        for (path, hook), keys in zip(hooks.items(), inputs, strict=True):
            lower_alpha(path, _scores_of_keys(hook, keys, is_token.to(keys.device)))
    last_layer = list(hooks)[-1]
    return list(highest[last_layer].tolist()), lowered


def _scores_of_keys(hook: HookLayer, keys: Tensor, is_token: Tensor) -> Tensor:
    """Return the scores of full prompts in a hook layer that is off, shape ``(rows, tokens)``; NaN at padding.

    Args:
        hook: the hook layer.
        keys: the inputs of its projection, shape ``(rows, tokens, inputs)``.
        is_token: which positions are tokens rather than padding, shape ``(rows, tokens)``.
    """
    norms = hook.output_change(keys).norm(dim=-1)
    scores = hook.weigh(z_scores_of_norms(norms, is_token, leave_one_out=hook.leave_one_out), norms)
    return scores.masked_fill(~is_token, float("nan"))


def _check_scores(highest: Tensor, facts: Sequence[Fact], hook: HookLayer) -> None:
    """Raise an EditError that names the first prompt without a finite score; ``highest`` is the score of each."""
    no_scores = (~torch.isfinite(highest)).nonzero().flatten().tolist()
    if no_scores:
        fact, needed = facts[no_scores[0]], 3 if hook.leave_one_out else 2
        request = fact.request
        if len(set(fact.plain.prompt)) >= needed:
            raise EditError(
                f"{request.where}: the update of its batch has the same effect on all tokens of {request.prompt!r}, or "
                "an infinite one, so CoachHook can't tell them apart. Check v_lr, v_num_grad_steps and "
                "mom2_update_weight."
            )
        raise EditError(
            f"{request.where}, field 'prompt': {request.prompt!r} has no z-scores: CoachHook compares the tokens "
            f"of a prompt with each other, and needs at least {needed} that differ. Use a longer prompt."
        )


def keep_in_scope(
    runner: Runner,
    hooks: Mapping[str, HookLayer],
    before: Mapping[str, float],
    lowered: Mapping[str, float],
    prompts: Sequence[Sequence[int]],
    last_block: nn.Module,
    floor: float = 0.0,
) -> tuple[dict[str, float], set[int]]:
    """Lower α until every prompt has a token in scope in every hook layer of the edited model.

    The paper's rule considers only the prompts of the new batch. But a batch changes ΔW for the prompts of earlier
    batches, too. Their scores fall as edits accumulate, so a prompt that was in scope can get out of scope.

    A prompt whose tokens hardly differ would need such a low α that hook layers would act on nearly all tokens. So a
    prompt that needs an α below ``floor`` in any layer is dropped: α does not fall for it in any layer.

    Args:
        runner: runs the model.
        hooks: the hook layers by path, from the first to the last. Their α is that of ``lowered``, and is changed.
        before: α of each hook layer before the batch, by path.
        lowered: α of each hook layer by the paper's rule, by path.
        prompts: the token ids of the plain prompts.
        last_block: the last edited block.
        floor: the lowest α that a prompt can need without being dropped.

    Returns:
        α of each hook layer by path, and the indices of the dropped prompts.
    """
    search = _AlphaSearch(runner, hooks, prompts, last_block, floor, alphas=dict(lowered))
    while not search.run():
        # α may have fallen for a prompt that is now dropped, so start again from the α before the batch.
        search.set_alphas(before)
    return search.alphas, search.dropped


@dataclass
class _AlphaSearch:
    """Lowers α for prompts; see :func:`keep_in_scope`.

    Attributes:
        runner: runs the model.
        hooks: the hook layers by path, from the first to the last.
        prompts: the token ids of the plain prompts.
        last_block: the last edited block.
        floor: the lowest α that a prompt can need without being dropped.
        alphas: the present α of each hook layer, by path.
        dropped: the indices of the dropped prompts. α does not fall for them.
    """

    runner: Runner
    hooks: Mapping[str, HookLayer]
    prompts: Sequence[Sequence[int]]
    last_block: nn.Module
    floor: float
    alphas: dict[str, float]
    dropped: set[int] = field(default_factory=set)
    _below_floor: set[int] = field(default_factory=set, init=False)
    """The indices of the prompts that need an α below the floor, in the present run."""
    _changes: int = field(default=0, init=False)
    """How often α has changed, in any layer."""

    def set_alphas(self, alphas: Mapping[str, float]) -> None:
        """Set α of each hook layer, by path."""
        self.alphas = dict(alphas)
        for path, hook in self.hooks.items():
            hook.set_alpha(alphas[path])

    def run(self) -> bool:
        """Lower α until all prompts that are not dropped have a token in scope in every hook layer.

        Returns:
            Whether that is done. False if a prompt needs an α below the floor. Such prompts are then dropped, and α is
            not final.
        """
        self._below_floor.clear()
        groups = list(_group_by_length(self.prompts))
        # For each group, how often α had changed when its pass was done. When α falls in a layer, the layer acts on
        # more tokens, and so the keys of the layers above change. Groups that ran before the change must run again.
        changes_seen = [-1] * len(groups)
        while not self._below_floor and min(changes_seen, default=self._changes) < self._changes:
            for number, group in enumerate(groups):
                if changes_seen[number] != self._changes:
                    self._run_group(group)
                    changes_seen[number] = self._changes
        self.dropped |= self._below_floor
        return not self._below_floor

    @torch.no_grad()
    def _run_group(self, group: Sequence[int]) -> None:
        """Run some prompts, given by index, and lower α for them."""
        rows = [list(self.prompts[index]) for index in group]
        ids, mask = pad_rows(rows, self.runner.pad, "right", self.runner.device)
        with ExitStack() as stack:
            for path, hook in self.hooks.items():
                stack.enter_context(hook.in_mode(Mode.VALIDATED))
                stack.enter_context(hook.recording_scores(functools.partial(self._lower_alpha, path, group)))
            stack.enter_context(ending_after(self.last_block))
            stack.enter_context(grouped_queries())
            self.runner.call(ids, mask, torch.tensor([len(row) for row in rows]))

    def _lower_alpha(self, path: str, group: Sequence[int], scores: Tensor) -> None:
        """Lower α of one hook layer for some prompts.

        Args:
            path: path of the layer.
            group: the indices of the prompts.
            scores: their scores in the layer, shape ``(prompts of the group, tokens)``.
        """
        hook = self.hooks[path]
        highest = {
            index: score
            for index, score in zip(group, _highest_scores(scores).tolist(), strict=True)
            if index not in self.dropped and math.isfinite(score)  # a prompt without scores cannot be in scope
        }
        self._below_floor |= {index for index, score in highest.items() if score < self.floor}
        needed = min((score for score in highest.values() if score >= self.floor), default=math.inf)
        if needed < float(hook.threshold(self.runner.model.dtype)):
            self.alphas[path] = needed
            hook.set_alpha(needed)
            self._changes += 1


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
