"""Copies of a model that share its weights, and what stands for these weights."""

from __future__ import annotations

import copy
import itertools
import weakref
from typing import Any

from torch import nn

from easyedit_lifelong.models.wrappers import unwrap_model


class SharedWeights:
    """Stands for the weights of all models that share them: a key for what is known about each of these models."""


# Not an attribute of the model: a model without edits has no trace of this package.
_WEIGHTS: weakref.WeakKeyDictionary[Any, SharedWeights] = weakref.WeakKeyDictionary()


def weights_of(model: Any) -> SharedWeights:
    """Return the object that stands for a model's weights. It lives as long as a model that has these weights."""
    return _WEIGHTS.setdefault(unwrap_model(model), SharedWeights())


def copy_sharing_weights(model: nn.Module) -> Any:
    """Return a copy of a model with new modules, which share all parameters and buffers with those of the model."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    copied = copy.deepcopy(model, dict(shared))
    _WEIGHTS[unwrap_model(copied)] = weights_of(model)
    return copied
