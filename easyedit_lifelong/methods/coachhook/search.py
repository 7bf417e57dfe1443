"""What a search tries for CoachHook on one model, with either score that decides where hooks act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.locate_edit.search_stages import (
    moment_weight_stages,
    null_space_stages,
    prepare_moments,
    target_stages,
)
from easyedit_lifelong.methods.search_space import SearchSpace, SearchStage, Values, multiples
from easyedit_lifelong.methods.shared.layer_moves import layer_count_stage, layer_stages
from easyedit_lifelong.models.anatomy import anatomy_of, mlp_of

_SCOPE_BLOCKS = (1, 2, 3, 4)
"""Activations distinguish subjects best in early blocks."""


def _stages(hparams: CoachHookHyperParams, blocks: Sequence[int] | None) -> list[SearchStage]:
    """Return the stages: the hook layers, the target vectors, the update, and the threshold of the scope."""
    update = null_space_stages() if hparams.update == "alphaedit" else moment_weight_stages()
    layers = [*layer_stages(blocks, _scope_layer_comes_first), layer_count_stage((1, 3, 5))]
    return [*layers, *target_stages(), *update, *_scope_stages(hparams)]


def _scope_stages(hparams: CoachHookHyperParams) -> list[SearchStage]:
    """Return the stages of the settings that decide at which tokens hooks act."""
    if hparams.wohk:
        return []
    if hparams.has_codebook:
        return [
            SearchStage("scope layer", ("scope_layer",), _scope_layers),
            multiples("false-fire rate", "false_fire_rate", (0.1, 0.3, 3, 10)),
        ]
    threshold = multiples("threshold α", "alpha_z", (0.6, 0.8, 1.25, 1.6))
    floor = multiples("least α", "alpha_floor", (0.6, 0.8, 1.25))
    return [threshold, floor] if hparams.alpha_floor else [threshold]


def _scope_layer_comes_first(hparams: CoachHookHyperParams, model: Any) -> bool:
    """Return whether no edited projection comes before the scope layer, as far as their blocks tell."""
    anatomy = anatomy_of(model)
    if anatomy is None or not hparams.has_codebook:
        return True
    block = anatomy.block_of(hparams.scope_path)
    return block is None or block <= hparams.edited_layers[0]


def _scope_layers(hparams: CoachHookHyperParams, model: Any) -> list[Values]:
    """Return the first projections of early MLPs, up to that of the first edited block."""
    anatomy = anatomy_of(model)
    if anatomy is None:
        return []
    found = []
    for block in _SCOPE_BLOCKS:
        if block <= hparams.edited_layers[0] and (mlp := mlp_of(anatomy.blocks[block])) is not None:
            found.append({"scope_layer": f"{anatomy.blocks_path}.{block}.{mlp.inputs[0]}"})
    return found


SEARCH_SPACE = SearchSpace(_stages, prepare_moments)
"""Hook layers, target vectors, λ or the null space, and the threshold of CoachHook's scope."""
