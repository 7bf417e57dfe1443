"""The interface of a network that turns the gradients of an edit into updates of weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.methods.hypernetworks.token_gradients import TokenGradients
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.weight_updates.layer_update import ProductUpdate


class Hypernetwork(nn.Module):
    """Base class of networks that compute weight updates.

    Args:
        model: the model, whose weights the network does not change.
        modules: the edited projections by path.
        hparams: the hyperparameters of the method.
    """

    def __init__(self, model: Any, modules: Mapping[str, nn.Module], hparams: Any) -> None:
        super().__init__()

    @abstractmethod
    def updates(
        self, examples: Sequence[Example], gradients: Mapping[str, TokenGradients], *, observe: bool
    ) -> dict[str, ProductUpdate]:
        """Return the update of each projection; differentiable in the network's parameters.

        Args:
            examples: the edits.
            gradients: inputs and output gradients of each projection at the tokens of the edits, by path.
            observe: whether the network takes the gradients into its statistics, as in training.
        """

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters with their learning rates, as optimisers take them."""

    def statistics(self) -> dict[str, Tensor]:
        """Return what the network keeps apart from its parameters, as tensors by name."""
        return {}

    def load_statistics(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`statistics` returned."""
