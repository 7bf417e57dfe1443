"""The hook of a trained adaptor: it replaces the output of one layer at all tokens of a row."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.attachment import Attachment, EditBuffers
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.windows import Window, reads_prompts, repeat_rows


class Response(NamedTuple):
    """What an adaptor computes for each row.

    Attributes:
        value: the vector that can replace the layer's output, shape ``(rows, outputs)``.
        gate: the share of the value in the output, from 0 to 1, shape ``(rows, 1)``.
    """

    value: Tensor
    gate: Tensor


class Parameters(EditBuffers):
    """The parameters of an adaptor, θ, as a child module of the edited layer.

    Args:
        theta: θ, in the shape that the adaptor's class defines.
    """

    theta: Tensor

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.register_buffer("theta", theta)


class TrainedAdaptor(ABC):
    """Replaces the output of a layer by a value that it computes from the layer's input at the prompt end.

    With the value v and the gate g of a row, the output o of the layer at every token of the row becomes

        g v + (1 - g) o          in training,
        v if g >= threshold      in use; o otherwise.

    Tokens that are generated after a prompt get the response to the prompt. Without parameters, the layer's output
    stays as it is.

    Args:
        model: the model.
        layer: the edited layer, a projection.
        threshold: the threshold of the gate.

    Attributes:
        inputs: number of inputs of the layer.
        outputs: number of its outputs.
    """

    child: ClassVar[str]
    """Name of the child module of the layer that holds θ."""

    def __init__(self, model: nn.Module, layer: nn.Module, threshold: float) -> None:
        self.layer, self.threshold = layer, threshold
        self.inputs, self.outputs = projection_shape(layer)
        self._parameters: Parameters | None = None
        self._training: Tensor | None = None
        self._record: Callable[[Response, Tensor], None] | None = None
        self._attachment = Attachment(model, layer, self.child, self._after_layer, whole_prompts=True)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The shape of θ."""

    @abstractmethod
    def initial(self, generator: torch.Generator) -> Tensor:
        """Return random initial parameters, float64, on the CPU."""

    @abstractmethod
    def respond(self, theta: Tensor, query: Tensor) -> Response:
        """Return value and gate of each row.

        Args:
            theta: θ.
            query: the layer's input at the prompt end, shape ``(rows, inputs)``, in the dtype of θ or a wider one.
        """

    @property
    def theta(self) -> Tensor | None:
        """θ: all parameters in one matrix; None: no parameters."""
        return None if self._parameters is None else self._parameters.theta

    def set_theta(self, theta: Tensor | None) -> None:
        """Set the parameters; None: remove them."""
        self._parameters = None if theta is None else Parameters(theta)
        self._attachment.set_child(self._parameters)

    def detach(self) -> None:
        """Remove the adaptor from the model. A second call does nothing."""
        self._parameters = None
        self._attachment.detach()

    def training_with(self, theta: Tensor) -> AbstractContextManager[None]:
        """Use these parameters in the passes within the context, in the way of training."""
        return overridden("_training", {self: theta})

    def recording(self, record: Callable[[Response, Tensor], None]) -> AbstractContextManager[None]:
        """Call ``record`` in each pass within the context that reads prompts.

        Its arguments are the response, and the position of each row's prompt end, shape ``(rows,)``.
        """
        return overridden("_record", {self: record})

    def _after_layer(self, args: tuple[Any, ...], _: dict[str, Any], output: Tensor) -> Tensor | None:
        """Return the new output of the layer; None to keep it."""
        theta = self.theta if self._training is None else self._training
        window = self._attachment.window
        if theta is None or window is None:
            return None
        response = self._response(theta, args[0], window)
        if response is None:
            return None
        value, gate = (part.unsqueeze(1) for part in response)
        if self._training is None:
            return torch.where(gate >= self.threshold, value.to(output.dtype), output)
        return (gate * value + (1 - gate) * output).to(output.dtype)

    def _response(self, theta: Tensor, inputs: Tensor, window: Window) -> Response | None:
        """Return the response to the prompts of a pass, or to those that the generated tokens of a pass follow.

        Args:
            theta: θ.
            inputs: the layer's inputs, shape ``(rows, tokens, inputs)``.
            window: the pass.

        Returns:
            The response; None if it is not known, because the caller passed a cache of the prompt.

        Raises:
            EditError: the pass reads a part of a prompt.
        """
        decisions = {} if window.generation is None else window.generation.decisions
        if not reads_prompts(window, "The edits"):
            known: Response | None = decisions.get(id(self))
            if known is None:
                return None
            return Response(*(repeat_rows(part.to(inputs.device), len(inputs)) for part in known))
        ends = window.ends.to(inputs.device)
        query = inputs[torch.arange(len(inputs), device=inputs.device), ends]
        response = self.respond(theta, query.to(torch.promote_types(query.dtype, theta.dtype)))
        decisions[id(self)] = response
        if self._record is not None:
            self._record(response, ends)
        return response


class DeferAdaptor(TrainedAdaptor):
    """Defer: a value and a gate, both from one linear layer.

    v = W q + c,    g = sigmoid(w·q + b),    θ = [W c; wᵀ b], shape (outputs + 1, inputs + 1).
    """

    child = "defer_adaptor"

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of θ: a row for each output and one for the gate; the last column has the biases."""
        return self.outputs + 1, self.inputs + 1

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return parameters with the distribution of a new ``nn.Linear``: uniform within ±1/√inputs."""
        return _uniform(self.shape, 1 / math.sqrt(self.inputs), generator)

    def respond(self, theta: Tensor, query: Tensor) -> Response:
        """Return value and gate of each row."""
        rows = F.linear(query, theta[:, :-1].to(query.dtype), theta[:, -1].to(query.dtype))
        return Response(rows[:, :-1], rows[:, -1:].sigmoid())


class MemoryAdaptor(TrainedAdaptor):
    """Memory network: soft attention over slots. Its gate is always 1, so it replaces every output.

        v = softmax(A q + a) V,    θ = [A a V], shape (slots, inputs + 1 + outputs).

    Args:
        model: the model.
        layer: the edited layer, a projection.
        slots: number of slots.
    """

    child = "memory_adaptor"

    def __init__(self, model: nn.Module, layer: nn.Module, slots: int) -> None:
        self._slots = slots
        super().__init__(model, layer, threshold=1.0)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of θ: a row for each slot."""
        return self._slots, self.inputs + 1 + self.outputs

    def initial(self, generator: torch.Generator) -> Tensor:
        """Return A and a with the distribution of a new ``nn.Linear``, and V uniform from 0 to 1."""
        attention = _uniform((self._slots, self.inputs + 1), 1 / math.sqrt(self.inputs), generator)
        values = torch.rand(self._slots, self.outputs, generator=generator, dtype=torch.float64)
        return torch.cat([attention, values], dim=1)

    def respond(self, theta: Tensor, query: Tensor) -> Response:
        """Return the value of each row, and a gate of 1."""
        weight, bias, values = theta.to(query.dtype).split([self.inputs, 1, self.outputs], dim=1)
        attention = F.linear(query, weight, bias.squeeze(1)).softmax(dim=1)
        return Response(attention @ values, torch.ones_like(attention[:, :1]))


def _uniform(shape: tuple[int, int], bound: float, generator: torch.Generator) -> Tensor:
    """Return random numbers, uniform within ±bound, float64."""
    return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * bound
