"""What makes a model's CoachHook edits, batch by batch: enough to go on, to go back, and to store."""

from __future__ import annotations

import functools
import json
import uuid
from dataclasses import dataclass, field

import torch
from torch import Tensor

from easyedit_lifelong.methods.coachhook.templates import Templates
from easyedit_lifelong.methods.shared.records import EditRecord


@dataclass(frozen=True)
class LayerUpdate:
    """What a batch of n edits did to one layer: Δ = residual · adjustedᵀ (equation 4).

    Attributes:
        keys: K₂, shape ``(inputs, n)``.
        adjusted: C_accu⁻¹ K₂ with K₂ in C_accu, shape ``(inputs, n)``.
        residual: this layer's part of R, shape ``(outputs, n)``.
    """

    keys: Tensor
    adjusted: Tensor
    residual: Tensor

    def matrix(self) -> Tensor:
        """Return Δ, shape ``(outputs, inputs)``, float64."""
        return self.residual.double() @ self.adjusted.double().t()

    def added_to(self, delta: Tensor | None) -> Tensor:
        """Return a layer's ΔW with this update in it, in the dtype that updates are kept in."""
        update = self.matrix()
        total = update if delta is None else delta.to(update.device).double() + update
        return total.to(self.keys.dtype)


@dataclass(frozen=True)
class BatchUpdate:
    """One batch of edits.

    Attributes:
        records: what its edits were asked to do, in order.
        layers: its update, by path of the projection, from the first layer to the last.
        alphas: each layer's α once the batch is in.
        ordinary: the root mean square of each layer's ‖ΔW k‖ over ordinary text, where scores are weighed by it.
        prompts: the tokens of its requests' bare prompts, in order.
        name: unique; what its file is called.
    """

    records: tuple[EditRecord, ...]
    layers: dict[str, LayerUpdate]
    alphas: dict[str, float]
    ordinary: dict[str, float]
    prompts: tuple[tuple[int, ...], ...]
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def case_ids(self) -> tuple[int | str, ...]:
        """Of its requests, in order."""
        return tuple(record.case_id for record in self.records)

    @property
    def file(self) -> str:
        """What its file is called."""
        return f"batch-{self.name}.safetensors"

    @functools.cached_property
    def line(self) -> str:
        """What the index on disk says of it, in JSON: put into words once, for it never changes."""
        entry = {
            "file": self.file,
            "edits": [record.to_dict() for record in self.records],
            "prompts": [list(prompt) for prompt in self.prompts],
            "alphas": self.alphas,
            "ordinary": self.ordinary,
        }
        return json.dumps(entry, ensure_ascii=False)


@dataclass
class CoachHookState:
    """All batches since the unedited model.

    Attributes:
        paths: of the edited projections, from the first layer to the last.
        alpha_z: α before the first batch.
        templates: the context templates that all batches are learned in.
        batches: in order.
        fingerprint: of the unedited model's weights.
    """

    paths: list[str]
    alpha_z: float
    templates: Templates
    batches: list[BatchUpdate] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def alphas(self) -> dict[str, float]:
        """Each layer's α now."""
        return dict(self.batches[-1].alphas) if self.batches else dict.fromkeys(self.paths, self.alpha_z)

    @property
    def ordinary(self) -> dict[str, float]:
        """The root mean square of each layer's ‖ΔW k‖ over ordinary text now, where it counts."""
        return dict(self.batches[-1].ordinary) if self.batches else {}

    def delta(self, path: str, count: int | None = None) -> Tensor | None:
        """Return a layer's ΔW, the sum of its updates (or of the first ``count``) in order; None before the first."""
        total: Tensor | None = None
        for batch in self.batches[:count]:
            total = batch.layers[path].added_to(total)
        return total

    def keys(self, path: str) -> Tensor:
        """Return all keys of a layer, shape ``(inputs, edits)``."""
        return torch.cat([batch.layers[path].keys for batch in self.batches], dim=1)
