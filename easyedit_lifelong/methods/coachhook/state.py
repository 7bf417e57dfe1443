"""The batches of a model's CoachHook edits: enough to continue, to roll back and to store."""

from __future__ import annotations

import functools
import json
import uuid
from dataclasses import dataclass, field

import torch
from torch import Tensor

from easyedit_lifelong.methods.locate_edit.history import Batch, BatchHistory
from easyedit_lifelong.methods.locate_edit.update import LayerUpdate

__all__ = ["BatchUpdate", "CoachHookState", "LayerUpdate"]


@dataclass(frozen=True)
class BatchUpdate(Batch):
    """One batch of edits.

    Attributes:
        alphas: each layer's α after the batch.
        ordinary: the root mean square of each layer's ‖ΔW k‖ over ordinary text, where scores are weighed by it.
        prompts: the tokens of its requests' bare prompts, in order.
        name: unique; part of its file's name.
    """

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
class CoachHookState(BatchHistory[BatchUpdate]):
    """All batches since the unedited model.

    Attributes:
        alpha_z: α before the first batch.
    """

    alpha_z: float = field(kw_only=True)

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
