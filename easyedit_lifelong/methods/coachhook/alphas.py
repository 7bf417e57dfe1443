"""Where α falls to once a batch is in."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.facts import Fact
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode, score_norms
from easyedit_lifelong.methods.coachhook.passes import EditingPasses
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import ending_after

_TOKENS_AT_ONCE = 4096


def lowered_alphas(
    hooks: Mapping[str, HookLayer],
    alphas: Mapping[str, float],
    passes: EditingPasses,
    facts: Sequence[Fact],
    *,
    edited: bool,
    floor: float = 0.0,
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
        floor: what α doesn't fall below.

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
        lowered[path] = min(alphas[path], max(floor, float(highest[path].min())))

    def lower_at_once(path: str, scores: Tensor) -> None:
        lower(path, scores)
        hooks[path].lower(lowered[path])

    with ExitStack() as stack:
        for path, hook in hooks.items():
            stack.enter_context(hook.doing(Mode.VALIDATED if edited else Mode.OFF))
            if edited:
                stack.enter_context(hook.listening(functools.partial(lower_at_once, path)))
        inputs, real = passes.inputs_for_prompts([hook.module for hook in hooks.values()])
    if not edited:
        for (path, hook), keys in zip(hooks.items(), inputs, strict=True):
            here = real.to(keys.device)
            scores = score_norms(hook.change(keys).norm(dim=-1), here, others=hook.others)
            lower(path, scores.masked_fill(~here, float("nan")))
    last = list(hooks)[-1]
    return list(highest[last].tolist()), lowered


def keep_in_scope(
    runner: Runner,
    hooks: Mapping[str, HookLayer],
    alphas: Mapping[str, float],
    prompts: Sequence[Sequence[int]],
    last: nn.Module,
    floor: float = 0.0,
) -> dict[str, float]:
    """Lower α until every prompt, of whatever batch, has a token in scope in every layer of the edited model.

    A batch changes ΔW for the prompts of earlier ones, too: their z-scores sink as edits pile up, and what was in
    scope when it was edited needn't be any more. The paper's rule looks at the new batch only.

    Args:
        runner: of the model.
        hooks: the hook layers by path, from the first to the last, validated.
        alphas: each one's α so far.
        prompts: tokens of the bare prompts of all edits.
        last: the last edited block.
        floor: what α doesn't fall below; a prompt that would need less is given up.

    Returns:
        Every layer's α.
    """
    lowered, falling = dict(alphas), True

    def lower(path: str, scores: Tensor) -> None:
        nonlocal falling
        hook, highest = hooks[path], scores.nan_to_num(nan=float("-inf")).amax(dim=1)
        some = highest[torch.isfinite(highest)].tolist()  # a prompt without z-scores asks for nothing
        needed = max(floor, min(some, default=float("inf")))
        if needed < float(hook.threshold(runner.model.dtype)):
            lowered[path], falling = needed, True
            hook.lower(needed)

    while falling:  # a layer that acts at more tokens moves the keys of those above it
        falling = False
        for rows in _together(sorted(prompts, key=len)):
            ids, mask = pad_rows(rows, runner.pad, "right", runner.device)
            with ExitStack() as stack:
                for path, hook in hooks.items():
                    stack.enter_context(hook.listening(functools.partial(lower, path)))
                stack.enter_context(torch.no_grad())
                stack.enter_context(ending_after(last))
                runner.call(ids, mask, torch.tensor([len(row) for row in rows]))
    return lowered


def _together(rows: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    """Yield rows, sorted by length, in groups of a bounded number of tokens."""
    group: list[list[int]] = []
    for row in rows:
        if group and (len(group) + 1) * len(row) > _TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(list(row))
    if group:
        yield group
