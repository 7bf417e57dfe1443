"""Gradients with an error message where no gradient arrives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError


def gradients_of(loss: Tensor, tensors: Sequence[Tensor], grad_outputs: Tensor | None = None) -> list[Tensor]:
    """Return the gradients of a loss with respect to tensors.

    Args:
        loss: the loss.
        tensors: the tensors.
        grad_outputs: the weight of each entry of the loss, same shape; None for a loss that is a single number.

    Raises:
        EditError: the loss does not depend on one of them, so that training could not change it.
    """
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, list(tensors), grad_outputs=grad_outputs, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    if len(gradients) < len(tensors):
        raise EditError(
            "the loss has no gradient at the edited layer, so the edit can't be trained. Either the answer does not "
            "depend on this layer, or a layer after it can't be differentiated, such as those that torch quantises "
            "dynamically: load the model without that quantisation."
        )
    return gradients
