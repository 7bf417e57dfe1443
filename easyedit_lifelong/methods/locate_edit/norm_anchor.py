"""Scale the values of facts to one norm, the norm anchor (NAS, arXiv 2602.02543)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from easyedit_lifelong.data.readers import read_counterfact, read_requests
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.methods.locate_edit.block_targets import optimise_block_targets
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.facts import Fact, encode_fact
from easyedit_lifelong.methods.locate_edit.templates import PLAIN
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner

_LARGEST_RATIO = 2.0
"""Values whose norm is above this multiple of the anchor are not written, as in the authors' code."""
_TRIMMED_SHARE = 0.05
"""The share of the largest norms that the mean leaves out, as in the authors' code."""
_BATCH = 16


def scaled_targets(z: Tensor, block_output: Tensor, mlp_output: Tensor, anchor: float) -> Tensor:
    """Return target vectors whose values v* have the norm of the anchor.

    With the outputs h of the block and v of its MLP projection at the lookup token, v* = v + (z - h) is the value with
    which the output of the block is z. The result is h - v + v* · anchor/‖v*‖. If ‖v*‖ is more than twice the anchor,
    it is h: the fact is not written.

    Args:
        z: the target vectors, shape ``(facts, width)``.
        block_output: h, same shape.
        mlp_output: v, same shape.
        anchor: the norm.

    Returns:
        The scaled target vectors, same shape, in float64.
    """
    h, v = block_output.double(), mlp_output.double()
    value = v + (z.to(h) - h)
    norm = value.norm(dim=1, keepdim=True)
    scaled = value * (anchor / norm.clamp_min(torch.finfo(norm.dtype).tiny))
    return h - v + torch.where(norm > _LARGEST_RATIO * anchor, v, scaled)


def trimmed_mean(norms: Tensor) -> float:
    """Return the mean without the largest twentieth of the norms, shape ``(facts,)``."""
    kept = len(norms) - int(_TRIMMED_SHARE * len(norms))
    return float(norms.double().sort().values[:kept].mean())


def measured_anchor(runner: Runner, hparams: LocateEditHyperParams, layer: int) -> float:
    """Return the mean norm of v* over the package's sample facts: the norm anchor of a model.

    Target vectors are optimised for the plain prompts. The largest twentieth of the norms is left out.

    Args:
        runner: runs the base model.
        hparams: name the modules, and the settings of the target vectors.
        layer: number of the block whose output has the target vectors.

    Raises:
        EditError: a loss became NaN or infinite.
    """
    plain = dataclasses.replace(hparams, mention_templates=[])
    limit = context_length(runner.model)
    facts = [
        encode_fact(runner.tokenizer, request, PLAIN, plain, limit)
        for request in read_requests(COUNTERFACT, read_counterfact)
    ]
    batches = [facts[start : start + _BATCH] for start in range(0, len(facts), _BATCH)]
    return trimmed_mean(torch.cat([_value_norms(runner, batch, plain, layer) for batch in batches]))


def _value_norms(runner: Runner, facts: Sequence[Fact], hparams: LocateEditHyperParams, layer: int) -> Tensor:
    """Return the norm of v* of each fact, shape ``(facts,)``."""
    z = optimise_block_targets(runner, facts, hparams, layer).z
    block, projection = (
        find_module(runner.model, template.format(layer))[1]
        for template in (hparams.layer_module_tmp, hparams.rewrite_module_tmp)
    )
    h, v = EditingPasses(runner, facts, [block]).outputs_for_prompts([block, projection])
    return (v + (z.to(h) - h)).norm(dim=1).cpu()
