"""The CoachHook batches that have edited a model: what is needed to continue, to roll back and to save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.subject_scope import SubjectKeys
from easyedit_lifelong.methods.weight_updates.history import Batch, BatchHistory


@dataclass(frozen=True)
class BatchUpdate(Batch):
    """The edits that one batch made, with α after it.

    The names of the fields are keys in the files of saved edits.

    Attributes:
        alphas: α of each hook layer after the batch, by path.
        ordinary: the root mean square of ‖ΔW k‖ over ordinary text in each hook layer, by path; empty if scores are not
            weighed by it.
        prompts: the token ids of the plain prompts of its requests, in order.
        key_vectors: with ``scope_score: codebook``, see :class:`.SubjectKeys`; else None.
        radii: the same.
        whitening: the same. Later batches than the first have no columns here, since they share the first one's.
    """

    tensor_fields: ClassVar[tuple[str, ...]] = ("key_vectors", "radii", "whitening")

    alphas: dict[str, float]
    ordinary: dict[str, float]
    prompts: Sequence[Sequence[int]]
    key_vectors: Tensor | None = None
    radii: Tensor | None = None
    whitening: Tensor | None = None

    @property
    def subject_keys(self) -> SubjectKeys:
        """The keys of its subjects, with ``scope_score: codebook``."""
        assert self.key_vectors is not None and self.radii is not None and self.whitening is not None
        return SubjectKeys(self.key_vectors, self.radii, self.whitening)


@dataclass
class CoachHookState(BatchHistory[BatchUpdate]):
    """All CoachHook batches that have edited a model.

    Attributes:
        alpha_z: α before the first batch.
    """

    alpha_z: float = field(kw_only=True)

    @property
    def alphas(self) -> dict[str, float]:
        """The present α of each hook layer, by path."""
        return dict(self.batches[-1].alphas) if self.batches else dict.fromkeys(self.paths, self.alpha_z)

    @property
    def rms_changes(self) -> dict[str, float]:
        """The present root mean square of ‖ΔW k‖ over ordinary text, by path; empty if scores are not weighed by it."""
        return dict(self.batches[-1].ordinary) if self.batches else {}

    @property
    def case_ids(self) -> list[int | str]:
        """The case_ids of all edits, in order."""
        return [case_id for batch in self.batches for case_id in batch.case_ids]

    def subject_keys(self) -> SubjectKeys | None:
        """Return the keys of all subjects, with ``scope_score: codebook``; None without batches."""
        return SubjectKeys.joined([batch.subject_keys for batch in self.batches])

    def delta(self, path: str, count: int | None = None) -> Tensor | None:
        """Return ΔW of a hook layer after the first ``count`` batches, or after all; None without batches."""
        total: Tensor | None = None
        for batch in self.batches[:count]:
            total = batch.layers[path].added_to(total)
        return total


def check_keys(batch: BatchUpdate, width: int, vectors_per_key: int) -> None:
    """Check that a saved batch has a key for each edit, with ``scope_score: codebook``.

    Args:
        batch: the batch.
        width: the number of inputs of the scope layer.
        vectors_per_key: the number of key vectors of each key.

    Raises:
        EditError: the keys are missing, or do not fit.
    """
    if batch.key_vectors is None or batch.radii is None or batch.whitening is None:
        raise EditError("the batches have no keys of subjects, which scope_score: codebook needs")
    edits = len(batch.records)
    expected = {"key_vectors": (vectors_per_key * width, edits), "radii": (1, edits)}
    for name, shape in expected.items():
        tensor = getattr(batch, name)
        if tuple(tensor.shape) != shape or not tensor.isfinite().all():
            raise EditError(f"{name} has the shape {tuple(tensor.shape)} instead of {shape}, or is not finite")
    if len(batch.whitening) != width or not batch.whitening.isfinite().all():
        raise EditError(f"whitening has {len(batch.whitening)} rows instead of {width}, or is not finite")
    if bool((batch.radii < 0).any()):
        raise EditError("radii has a negative radius")
