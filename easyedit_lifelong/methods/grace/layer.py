"""The GRACE adaptor: a codebook on one layer of a model, answering through a forward hook.

The layer itself isn't wrapped or replaced: every module and weight of the model keeps its name, and
the codebook joins the layer as a child, so that it is saved and moved with the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook import Codebook
from easyedit_lifelong.models.positions import PositionTracker, Window

CHILD = "grace_codebook"


@dataclass
class Trial:
    """Values to put in place of the layer's output, whatever the codebook says.

    Attributes:
        values: one per row, shape ``(batch, value_size)``; None to leave the output alone.
        column: of the last prompt token, the same in every row.
        query: filled by the pass: the layer's input at that column, ``(batch, key_size)``.
        output: filled by the pass: the layer's output there, ``(batch, value_size)``.
    """

    values: Tensor | None
    column: int
    query: Tensor | None = None
    output: Tensor | None = None


class GraceAdaptor:
    """Looks every pass's queries up in the codebook and replaces what fires.

    Args:
        model: the model that the layer belongs to.
        layer: the edited layer: any module from ``(batch, tokens, width)`` to the same or another
            width.
        replacement: which tokens get the value; see
            :class:`~easyedit_lifelong.methods.grace.config.GraceHyperParams`.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, replacement: str) -> None:
        self.model, self.layer, self.replacement = model, layer, replacement
        self.codebook: Codebook | None = None
        self.attached = True
        self._trial: Trial | None = None
        self._tracker = PositionTracker.attach(model)
        self._handle = layer.register_forward_hook(self._after_layer, with_kwargs=True)

    def install(self, codebook: Codebook) -> None:
        """Put a codebook on the layer."""
        self.codebook = codebook.train(self.layer.training)
        self.layer.add_module(CHILD, codebook)

    def uninstall(self) -> None:
        """Take the codebook off the layer."""
        self.codebook = None
        if CHILD in self.layer._modules:
            del self.layer._modules[CHILD]

    def detach(self) -> None:
        """Leave the model as it was before the adaptor came; at the second call, do nothing."""
        if not self.attached:
            return
        self.attached = False
        self.uninstall()
        self._handle.remove()
        self._tracker.detach()

    @contextlib.contextmanager
    def trying(self, trial: Trial) -> Iterator[Trial]:
        """Use the trial instead of the codebook in the passes inside."""
        self._trial = trial
        try:
            yield trial
        finally:
            self._trial = None

    def _after_layer(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self._trial is None and (self.codebook is None or self._tracker.window is None):
            return None
        inputs = args[0] if args else kwargs.get("hidden_states")
        whole = output if isinstance(output, Tensor) else output[0]
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            raise EditError(
                f"GRACE needs a layer that maps (batch, tokens, width); {type(self.layer).__name__} gets "
                f"{tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__}. "
                "Name another layer in inner_params."
            )
        if self._trial is not None:
            replaced = self._with_trial(inputs, whole, self._trial)
        else:
            replaced = self._with_codebook(inputs, whole)
        if replaced is None:
            return None
        return replaced if isinstance(output, Tensor) else (replaced, *output[1:])

    def _with_trial(self, inputs: Tensor, output: Tensor, trial: Trial) -> Tensor | None:
        if trial.values is None:
            trial.query = inputs[:, trial.column].detach().float()
            trial.output = output[:, trial.column].detach().float()
            return None
        ends = torch.full((len(output),), trial.column, device=output.device)
        return torch.where(self._columns(ends, output), trial.values.to(output.dtype).unsqueeze(1), output)

    def _with_codebook(self, inputs: Tensor, output: Tensor) -> Tensor | None:
        assert self.codebook is not None and self._tracker.window is not None
        window = self._tracker.window
        asked = window.ends >= 0
        if asked.any():
            rows = torch.arange(len(inputs), device=inputs.device)
            ends = window.ends.to(inputs.device)
            queries = inputs[rows, ends.clamp(min=0)]
            fired = torch.where(ends >= 0, self.codebook.lookup(queries), -1)
            if window.generation is not None:
                window.generation.decisions[id(self)] = fired
        else:
            remembered = self._remembered(window, len(inputs))
            if remembered is None:
                return None
            fired, ends = remembered, torch.full_like(remembered, -1)
        if not (fired >= 0).any():
            return None
        columns = self._columns(ends, output) & (fired >= 0).view(-1, 1, 1)
        values = self.codebook.values[fired.clamp(min=0)].to(output.dtype)
        return torch.where(columns, values.unsqueeze(1), output)

    def _remembered(self, window: Window, batch: int) -> Tensor | None:
        """Return what fired on the prompts of a generation under way, where later tokens need it."""
        if window.generation is None or self.replacement != "replace_all":
            return None
        fired = window.generation.decisions.get(id(self))
        return fired if fired is not None and len(fired) == batch else None

    def _columns(self, ends: Tensor, output: Tensor) -> Tensor:
        """Return which tokens get the value, shape ``(batch, tokens, 1)``."""
        column = torch.arange(output.shape[1], device=output.device).view(1, -1, 1)
        end = ends.to(output.device).view(-1, 1, 1)
        if self.replacement == "replace_all":
            return torch.ones_like(column, dtype=torch.bool).expand(len(ends), -1, 1)
        return column < end if self.replacement == "replace_prompt" else column == end
