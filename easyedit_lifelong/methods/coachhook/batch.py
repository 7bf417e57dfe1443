"""What one batch does to the hook layers: the update of each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.layer import HookLayer, Mode
from easyedit_lifelong.methods.coachhook.passes import EditingPasses
from easyedit_lifelong.methods.coachhook.state import LayerUpdate
from easyedit_lifelong.methods.coachhook.update import AccumulatedKeys
from easyedit_lifelong.models.devices import device_of


def update_layers(
    hooks: Mapping[str, HookLayer],
    alphas: Mapping[str, float],
    accumulated: Mapping[str, AccumulatedKeys],
    passes: EditingPasses,
    z: Tensor,
    *,
    ordinary: Mapping[str, float] | None,
    wohk: bool,
) -> tuple[dict[str, LayerUpdate], dict[str, float]]:
    """Spread the residual over the layers, from the first to the last (section 3.3).

    Keys and residuals are taken with temporary hooks; a layer's hook is validated before the next layer's
    turn. Without hooks (``wohk``) the new weights act everywhere.

    Args:
        hooks: the hook layers by path, from the first to the last; they get their new ΔW.
        alphas: each one's α so far.
        accumulated: each one's C_accu; the batch's keys are added.
        passes: of the batch's prompts.
        z: the target vectors, shape ``(facts, width)``.
        ordinary: the root mean square of each layer's ‖ΔW k‖ over ordinary text so far; None where scores
            aren't weighed by it.
        wohk: whether the update will go into the weights.

    Returns:
        Each layer's update, and the root mean squares with it.

    Raises:
        EditError: an update can't be solved for, or isn't finite.
    """
    updates: dict[str, LayerUpdate] = {}
    sizes: dict[str, float] = {}
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
            delta = update.added_to(before).to(device_of(hook.module))
            if not torch.isfinite(delta).all():
                raise EditError(f"the update of {path} isn't finite; a smaller v_lr or clamp_norm_factor may help")
            if ordinary is not None:
                known = None if before is None else (before, ordinary[path])
                sizes[path] = accumulated[path].ordinary(update, known)
            hook.set(delta, alphas[path], Mode.TEMPORARY if wohk else Mode.VALIDATED, sizes.get(path))
    return updates, sizes


def weight_of(module: nn.Module) -> Tensor:
    """Return a projection's weight."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
