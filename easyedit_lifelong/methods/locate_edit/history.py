"""The batches that a model carries: enough to continue, to roll back and to store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.locate_edit.update import LayerUpdate
from easyedit_lifelong.methods.shared.records import EditRecord


@dataclass(frozen=True)
class Batch:
    """One batch of edits.

    Attributes:
        records: its requests, in order.
        layers: its update of each layer, by path of the projection, from the first layer to the last.
    """

    records: tuple[EditRecord, ...]
    layers: dict[str, LayerUpdate]

    @property
    def case_ids(self) -> tuple[int | str, ...]:
        """Of its requests, in order."""
        return tuple(record.case_id for record in self.records)


AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass
class BatchHistory(Generic[AnyBatch]):
    """All batches since the unedited model.

    Attributes:
        paths: of the edited projections, from the first layer to the last.
        templates: the context templates of all batches.
        batches: in order.
        fingerprint: of the unedited model's weights.
    """

    paths: list[str]
    templates: Templates
    batches: list[AnyBatch] = field(default_factory=list)
    fingerprint: str = ""
