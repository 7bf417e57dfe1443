"""Find out whether a module, or a model, computes nothing but what its authors' code computes."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.modules import module as global_hooks

from easyedit_lifelong.models.context_prefix import takes_positions
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of

_EXACT = (torch.float32, torch.float64)


def is_plain(module: nn.Module) -> bool:
    """Return whether no part of a module has hooks or a replaced ``forward``."""
    return not any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or "forward" in part.__dict__
        for part in module.modules()
    )


def reads_rows_plainly(model: Any) -> bool:
    """Return whether what a model computes for a token depends on the tokens before it alone, as in a plain model.

    This is so for a causal language model of transformers that differs from its authors' code in the values of its
    weights only. Hooks, replaced functions and modules of other packages may act on whole rows, as edits do that find
    the end of a row's prompt. Half precision is excluded: its rounding changes some of the most probable tokens.
    """
    return (
        isinstance(model, transformers.PreTrainedModel)
        and model.dtype in _EXACT
        and kind_of(model) is ModelKind.CAUSAL
        and takes_positions(model)
        and not (global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks)
        and is_plain(model)
        and all(type(part).__module__.partition(".")[0] in ("torch", "transformers") for part in model.modules())
    )
