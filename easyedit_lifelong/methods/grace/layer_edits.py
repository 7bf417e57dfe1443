"""The edits in one layer's codebook: list them, roll some of them back, and load saved ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableSequence, Sequence
from typing import Any

from easyedit_lifelong.data.subjects import other_names
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.lazy_list import LazyList
from easyedit_lifelong.methods.grace.adaptor import GraceAdaptor
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.codebook.edit_history import all_keys_of, keys_of
from easyedit_lifelong.methods.grace.codebook.key_space import KeySpace
from easyedit_lifelong.methods.grace.codebook.removal import check_removable, remove_edits
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.grace.subject.subject_layer import SubjectAdaptor
from easyedit_lifelong.methods.shared.editors import unregister_editor
from easyedit_lifelong.methods.shared.records import EditRecord, indices_of_case, remove_records
from easyedit_lifelong.methods.shared.subject_keys.distance import rounding_of
from easyedit_lifelong.models.devices import device_of


class LayerEdits:
    """The edits in one layer's codebook, in order. The base class of the layer's editor.

    Args:
        model: the model.
        path: the path of the edited layer.

    Attributes:
        adaptor: the hook that applies the codebook; the editor sets it.
        changes: what each edit changed in the codebook, in order.
        records: the record of each edit, in the same order.
        gate_size: width of a gate; 0 without gates.
    """

    adaptor: GraceAdaptor

    def __init__(self, model: Any, path: str) -> None:
        self.model, self.path = model, path
        self.changes: MutableSequence[Change] = []
        self.records: list[EditRecord] | LazyList[EditRecord] = []
        self.gate_size = 0
        self._subjects_of_keys: tuple[EditRecord | None, int, dict[int, list[str]]] = (None, 0, {})

    @property
    def case_ids(self) -> list[int | str]:
        """The case_ids of the edits, in order."""
        return [record.case_id for record in self.records]

    @property
    def codebook(self) -> Codebook | None:
        """The codebook; None before the first edit."""
        return self.adaptor.codebook

    @property
    def key_space(self) -> KeySpace:
        """The part of the key space that the hyperparameters do not define."""
        if not isinstance(self.adaptor, SubjectAdaptor):
            return KeySpace(self.gate_size)
        return KeySpace(self.gate_size, self.adaptor.whitening, self.adaptor.relation_metric)

    @property
    def rounding(self) -> float:
        """How much rounding changes an activation of this model; see :func:`.rounding_of`."""
        return rounding_of(next(self.model.parameters()).dtype)

    def remove(self, case_id: int | str, prompt: str | None = None) -> list[EditRecord]:
        """Remove the edits of one case, as if they had never been made.

        Later edits are inserted again, in order, with their stored queries and values. So a radius that a removed edit
        split or expanded becomes what it would be without that edit.

        Args:
            case_id: the case to remove.
            prompt: remove only the edits of this prompt. Needed if the case's edits have different prompts.

        Returns:
            The records of the removed edits.

        Raises:
            EditError: there is no such edit; or the case's edits have different prompts and none is given; or the
                query of a later edit is not known. Then nothing is changed.
        """
        numbers = indices_of_case(self.records, case_id, prompt)
        removed = [self.records[n] for n in numbers]
        self.remove_records(removed)
        return removed

    def remove_records(self, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Remove the edits that these records belong to; see :meth:`remove`. Edits already removed are skipped.

        Args:
            records: objects of :attr:`records`. They are compared by identity, since two edits can have equal records.
            check_only: check that the edits can be removed, and change nothing.

        Raises:
            EditError: the query of a later edit is not known. Then nothing is changed.
        """
        numbers = self._numbers_of(records)
        if not numbers or self.codebook is None:
            return
        if check_only:
            check_removable(self.codebook, self.changes, numbers, self._names)
            return
        if len(numbers) == len(self.records):
            del self.changes[:], self.records[:]
        else:
            remove_edits(self.codebook, self.changes, numbers, self._names)
            remove_records(self.records, numbers)
        self._detach_if_empty()

    @property
    def _names(self) -> Sequence[int | str]:
        """The case_ids of the edits, each of which is read when it is needed."""
        return LazyList(len(self.records), lambda number: self.records[number].case_id)

    def _numbers_of(self, records: Sequence[EditRecord]) -> set[int]:
        """Return the numbers of the edits that these records belong to, counted from 0."""
        if isinstance(self.records, LazyList):
            return self.records.indices_of(records)
        identities = {id(record) for record in records}
        return {n for n, record in enumerate(self.records) if id(record) in identities}

    def record_of_key(self) -> dict[int, EditRecord]:
        """Return the record of the edit that each key answers for: the last edit inserted at that key."""
        if self.codebook is None:
            return {}
        keys_and_records = zip(all_keys_of(self.codebook, self.changes), self.records, strict=True)
        return {key: record for keys, record in keys_and_records for key in keys}

    def subjects_of_key(self, key: int) -> list[str]:
        """Return the names of subjects that a key answers for: edits with the same target can share a key."""
        last_record, count, subjects = self._subjects_of_keys
        latest = self.records[-1] if self.records else None
        # New edits come last. So where the last record and the number of records are the same, all of them are.
        if latest is not last_record or len(self.records) != count:
            subjects = self._all_subjects_of_keys()
            self._subjects_of_keys = (latest, len(self.records), subjects)
        return subjects.get(key, [])

    def _all_subjects_of_keys(self) -> dict[int, list[str]]:
        """Return the names that each key answers for. An edit with a new target replaces the others."""
        subjects, targets = dict[int, list[str]](), dict[int, str]()
        if self.codebook is None:
            return subjects
        for keys, record in zip(all_keys_of(self.codebook, self.changes), self.records, strict=True):
            names = [] if record.subject is None else [record.subject, *other_names(record.subject, record.aliases)]
            # Earlier releases saved no keys of other names.
            names_of_keys = [[name] for name in names] if len(names) == len(keys) else [names] * len(keys)
            for key, names_of_key in zip(keys, names_of_keys, strict=True):
                if targets.get(key) != record.target_new:
                    targets[key], subjects[key] = record.target_new, []
                subjects[key] += names_of_key
        return subjects

    def record_of_further_key(self) -> dict[int, EditRecord]:
        """Return the record of the edit that each further key belongs to: the last edit inserted at that key."""
        if self.codebook is None or self.codebook.further_keys is None:
            return {}
        changes = [further for change in self.changes for further in change.further]
        records = [record for change, record in zip(self.changes, self.records, strict=True) for _ in change.further]
        return dict(zip(keys_of(self.codebook.further_keys, changes), records, strict=True))

    def adopt(self, stored: SerializedEdits) -> Callable[[], None]:
        """Put saved edits on a layer without edits.

        Returns:
            A function that rolls these edits back.

        Raises:
            EditError: the layer carries edits already.
        """
        if self.changes:
            raise EditError("edits can be restored onto an unedited model only")
        layer, codebook = self.adaptor.layer, stored.codebook
        has_parameters = next(layer.parameters(), None) is not None
        codebook.rounding = self.rounding
        if codebook.further_keys is not None:
            codebook.further_keys.rounding = self.rounding
        if isinstance(self.adaptor, SubjectAdaptor):
            self.gate_size, self.adaptor.whitening = stored.key_space.gate_size, stored.key_space.whitening
            self.adaptor.relation_metric = stored.key_space.relation_metric
        self.adaptor.install(codebook.to(device_of(layer if has_parameters else self.model)))
        self.changes, self.records = stored.changes, stored.records
        return functools.partial(self.remove_records, self.records.copy())

    def undo_to(self, count: int) -> None:
        """Undo all edits but the first ``count``."""
        del self.records[count:]
        while len(self.changes) > count:
            change = self.changes.pop()
            if self.codebook is not None:
                self.codebook.undo(change)
        self._detach_if_empty()

    def _detach_if_empty(self) -> None:
        """Take adaptor and editor off the model if no edit is left."""
        if not self.changes:
            self.adaptor.detach()
            unregister_editor(self.model, GraceHyperParams.ALG_NAME, self.path)
