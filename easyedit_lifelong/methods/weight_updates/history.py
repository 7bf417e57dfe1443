"""The batches that have edited a model: what is needed to continue, to roll back and to save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate, WeightUpdate

Templates = list[list[str]]
"""Groups of templates, each with one ``{}`` for the prompt. Keys are averaged within a group, then over groups."""


@dataclass(frozen=True)
class Batch:
    """The edits that one batch made.

    Attributes:
        records: the records of its edits, in order.
        layers: the update of each layer, by path of the projection, from the first layer to the last.
    """

    update_class: ClassVar[type[Any]] = LayerUpdate
    tensor_fields: ClassVar[tuple[str, ...]] = ()
    """Names of further fields that are tensors with a column for each edit, or with any number; None: not saved."""

    records: tuple[EditRecord, ...]
    layers: Mapping[str, WeightUpdate]

    @property
    def case_ids(self) -> tuple[int | str, ...]:
        """The case_ids of its edits, in order."""
        return tuple(record.case_id for record in self.records)


AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass
class BatchHistory(Generic[AnyBatch]):
    """All batches that have edited a model.

    Attributes:
        paths: the paths of the edited projections, from the first layer to the last.
        templates: the context templates, which all batches share; empty if the method has none.
        batches: the batches, in order.
        fingerprint: the fingerprint of the base model's weights.
    """

    paths: list[str]
    templates: Templates
    batches: list[AnyBatch] = field(default_factory=list)
    fingerprint: str = ""
