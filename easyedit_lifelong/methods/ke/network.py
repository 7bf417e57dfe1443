"""The network of KE: an LSTM reads the edit, and a small network for each projection gates the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.token_gradients import TokenGradients
from easyedit_lifelong.methods.ke.config import KEHyperParams
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.weight_updates.edited_layers import weight_of
from easyedit_lifelong.methods.weight_updates.layer_update import ProductUpdate
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.quantisation import update_dtype


class Gate(nn.Module):
    """Turns the vector h of an edit into the gate and the shift of one projection's gradient.

    Args:
        inputs: number of inputs of the projection.
        outputs: number of its outputs.
        condition_dim: width of h.
        hidden_dim: width of the hidden layer.
    """

    def __init__(self, inputs: int, outputs: int, condition_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self._sizes = [inputs, outputs, inputs, outputs, 1]
        self.hidden = weight_norm(nn.Linear(condition_dim, hidden_dim))
        self.out = weight_norm(nn.Linear(hidden_dim, sum(self._sizes)))

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return γ, softmax(α), δ, softmax(β) and sigmoid(η).

        Args:
            condition: h, shape ``(condition_dim,)``.

        Returns:
            γ and δ of shape ``(inputs,)``, softmax(α) and softmax(β) of shape ``(outputs,)``, and a number.
        """
        gamma, alpha, delta, beta, eta = self.out(self.hidden(condition).tanh()).split(self._sizes)
        return gamma, alpha.softmax(dim=0), delta, beta.softmax(dim=0), eta.sigmoid()


class KENetwork(Hypernetwork):
    """The network of KE (arXiv 2104.08164).

    With the gradient ∇W of an edit's loss, the update of a projection is
    ΔW = s · sigmoid(η) · (softmax(α) γᵀ ⊙ ∇W + softmax(β) δᵀ). α, β, γ, δ and η depend on the tokens of the edit.

    Args:
        model: the model, whose token embeddings the LSTM reads.
        modules: the edited projections by path.
        hparams: the hyperparameters.
    """

    def __init__(self, model: Any, modules: Mapping[str, nn.Module], hparams: KEHyperParams) -> None:
        super().__init__(model, modules, hparams)
        self._learning_rate, self._max_scale = hparams.lr, hparams.max_scale
        embedding = model.get_input_embeddings()
        # In a list, so that the embedding does not become a part of the network, which is trained and saved.
        self._embedding = [embedding]
        width = weight_of(embedding).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hparams.seed)
            self.lstm = nn.LSTM(width, hparams.hidden_dim, batch_first=True, bidirectional=True)
            self.condition = nn.Linear(2 * hparams.hidden_dim, hparams.condition_dim)
            self.gates = nn.ModuleList(
                Gate(*projection_shape(module), hparams.condition_dim, hparams.hidden_dim)
                for module in modules.values()
            )
        last = list(modules.values())[-1]
        self.to(device_of(last), update_dtype(last))

    def updates(
        self, examples: Sequence[Example], gradients: Mapping[str, TokenGradients], *, observe: bool
    ) -> dict[str, ProductUpdate]:
        """Return the update of each projection; see :class:`Hypernetwork`.

        The update of a batch is the sum over its edits. ∇W is a sum of products δ̂ ûᵀ over tokens, so the gated gradient
        is the sum of (softmax(α) ⊙ δ̂) (γ ⊙ û)ᵀ, and the update has a column for each token and one for each edit.
        """
        conditions = self._conditions(examples)
        updates: dict[str, ProductUpdate] = {}
        for gate, (path, part) in zip(self.gates, gradients.items(), strict=True):
            adjusted, residual = list[Tensor](), list[Tensor]()
            for number, condition in enumerate(conditions):
                column_gate, row_gate, column_shift, row_shift, scale = gate(condition)
                of_edit = part.edit_of == number
                adjusted += [part.inputs[of_edit].to(condition) * column_gate, column_shift[None]]
                scale = self._max_scale * scale
                residual += [scale * part.gradients[of_edit].to(condition) * row_gate, scale * row_shift[None]]
            updates[path] = ProductUpdate(torch.cat(adjusted).t(), torch.cat(residual).t())
        return updates

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return all parameters with the learning rate ``lr``."""
        return [{"params": list(self.parameters()), "lr": self._learning_rate}]

    def _conditions(self, examples: Sequence[Example]) -> list[Tensor]:
        """Return h of each edit, shape ``(condition_dim,)``: the last states of the LSTM over prompt and target."""
        (embedding,) = self._embedding
        conditions = []
        for example in examples:  # one by one, so that padding is not read
            with torch.no_grad():
                tokens = embedding(torch.tensor([example.tokens], device=self.condition.weight.device))
            _, (states, _) = self.lstm(tokens.to(self.condition.weight))
            conditions.append(self.condition(states[:, 0].flatten()).tanh())
        return conditions
