"""What one batch does to the hook layers: the update of each, and where α falls to."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.facts import Fact
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode, score_norms
from easyedit_lifelong.methods.coachhook.passes import EditingPasses
from easyedit_lifelong.methods.coachhook.state import LayerUpdate
from easyedit_lifelong.methods.coachhook.update import AccumulatedKeys


def update_layers(
    hooks: Mapping[str, HookLayer],
    alphas: Mapping[str, float],
    accumulated: Mapping[str, AccumulatedKeys],
    passes: EditingPasses,
    z: Tensor,
    *,
    wohk: bool,
) -> dict[str, LayerUpdate]:
    """Spread the residual over the layers, from the first to the last (section 3.3).

    Keys and residuals are taken with temporary hooks; a layer's hook is validated before the next layer's
    turn. Without hooks (``wohk``) the new weights act everywhere.

    Args:
        hooks: the hook layers by path, from the first to the last; they get their new ΔW.
        alphas: each one's α so far.
        accumulated: each one's C_accu; the batch's keys are added.
        passes: of the batch's prompts.
        z: the target vectors, shape ``(facts, width)``.
        wohk: whether the update will go into the weights.

    Raises:
        EditError: an update can't be solved for, or isn't finite.
    """
    updates: dict[str, LayerUpdate] = {}
    with ExitStack() as stack:
        for hook in hooks.values():
            stack.enter_context(hook.doing(Mode.TEMPORARY))
        for number, (path, hook) in enumerate(hooks.items()):
            keys, outputs = passes.keys_and_outputs(hook.module)
            residual = (z.to(outputs.device).double() - outputs) / (len(hooks) - number)
            keys = keys.t().to(accumulated[path].keys.dtype)
            adjusted = accumulated[path].solve(keys)
            updates[path] = update = LayerUpdate(
                keys.cpu(), adjusted.to("cpu", keys.dtype), residual.t().to("cpu", keys.dtype)
            )
            accumulated[path].add(update.keys)
            before = hook.weight.delta if hook.weight is not None else None
            delta = update.added_to(before).to(weight_of(hook.module).device)
            if not torch.isfinite(delta).all():
                raise EditError(f"the update of {path} isn't finite; a smaller v_lr or clamp_norm_factor may help")
            hook.set(delta, alphas[path], Mode.TEMPORARY if wohk else Mode.VALIDATED)
    return updates


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
        weight = hooks[path].weight
        assert weight is not None
        weight.alpha.fill_(lowered[path])

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


def weight_of(module: nn.Module) -> Tensor:
    """Return a projection's weight."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
