"""The tensors and labels of GRACE's codebook, and their conversion to and from a state_dict or a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.codebook.codebook_arrays import ARRAY_NAMES, CodebookArrays
from easyedit_lifelong.methods.grace.codebook.decisions import Label
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.shared.subject_keys.key_projections import PROJECTION_TENSORS
from easyedit_lifelong.methods.shared.subject_keys.key_search import Search
from easyedit_lifelong.methods.shared.subject_keys.segmented_rows import Rows, SegmentedRows


class KeyStore(nn.Module):
    """Keys with values, deferral radii and labels (arXiv 2211.11031, section 3).

    Keys, values and radii are on the device of the layer that they belong to, and are part of the model's
    ``state_dict``. Whatever the model's dtype, values and radii are float32, and keys are stored without rounding;
    :class:`CodebookArrays` chooses the keys' dtype. Every method that writes a key notifies the search.

    A key may consist of several *key vectors*; the distance to a key is the distance to the nearest of them. A value
    may be stored with a *gate*: the activation of the edit's prompt at a later layer, which the relation gate compares.
    It may also be stored with the initial radius of its key, which then replaces ``eps``.

    Args:
        key_size: width of a query, and of a key vector.
        value_size: width of a value.
        eps: initial radius of a key.
        dist_fn: ``euc`` or ``cos``.
        eps_expand: ``coverage`` or ``moving_average``.
        rounding: the result of :func:`rounding_of` for the model's dtype.
        device: device of the tensors.
        vectors_per_key: number of key vectors of each key.
        gate_size: width of a gate; 0 without gates.
        gate_eps: radius of the gate. Edits whose gates are further apart do not compete for a key. None for no limit.
        relation_metric: projects gates before they are compared by cosine distance; None to compare them as they are.
        per_edit_eps: whether every edit has its own initial radius.

    Attributes:
        labels: the label of each key.
        hits: number of lookups that each key has answered, by the key's index. Not part of the ``state_dict``.
    """

    def __init__(
        self,
        key_size: int,
        value_size: int,
        *,
        eps: float,
        dist_fn: str = "euc",
        eps_expand: str = "coverage",
        rounding: float = 4e-6,
        device: torch.device | str | None = None,
        vectors_per_key: int = 1,
        gate_size: int = 0,
        gate_eps: float | None = None,
        relation_metric: RelationMetric | None = None,
        per_edit_eps: bool = False,
    ) -> None:
        super().__init__()
        self.eps, self.dist_fn, self.eps_expand, self.rounding = eps, dist_fn, eps_expand, rounding
        self.vectors_per_key, self.per_edit_eps = vectors_per_key, per_edit_eps
        self.gate_size, self.gate_eps = gate_size, gate_eps
        self.relation_metric = relation_metric
        self.labels: MutableSequence[Label] = []
        self.hits: Counter[int] = Counter()
        self._value_size = value_size
        self._arrays = CodebookArrays(vectors_per_key * key_size, value_size + gate_size + per_edit_eps, device)
        self._search = Search(dist_fn)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._arrays)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self._arrays.device

    @property
    def key_width(self) -> int:
        """Width of a key, all key vectors included."""
        return self._arrays.width("keys")

    @property
    def value_size(self) -> int:
        """Width of a value, without gate and radius."""
        return self._value_size

    @property
    def keys(self) -> Tensor:
        """The keys, shape ``(n, vectors_per_key * key_size)``: float32, or a half dtype that holds them exactly.

        Like :attr:`key_vectors`, :attr:`values` and :attr:`gates`, this is a copy if some rows are in a memory-mapped
        file and others are not.
        """
        return self._arrays["keys"]

    @property
    def key_vectors(self) -> Tensor:
        """The key vectors of all keys, key by key, shape ``(n * vectors_per_key, key_size)``."""
        return self.keys.view(len(self) * self.vectors_per_key, -1)

    @property
    def values(self) -> Tensor:
        """The values, shape ``(n, value_size)``."""
        return self._arrays["values"][:, : self._value_size]

    @property
    def gates(self) -> Tensor:
        """The gates, shape ``(n, gate_size)``."""
        return self._arrays["values"][:, self._value_size : self._value_size + self.gate_size]

    def values_of(self, index: Tensor) -> Tensor:
        """Return the values of keys, shape ``(*index.shape, value_size)``."""
        return self._arrays.rows("values")[index][..., : self._value_size]

    def gates_of(self, index: Tensor) -> Tensor:
        """Return the gates of keys, shape ``(*index.shape, gate_size)``."""
        return self._arrays.rows("values")[index][..., self._value_size : self._value_size + self.gate_size]

    @property
    def _search_rows(self) -> Rows:
        """The key vectors of all keys, not copied."""
        rows = self._arrays.rows("keys")
        return (
            rows.divided(self.vectors_per_key)
            if isinstance(rows, SegmentedRows)
            else rows.view(len(self) * self.vectors_per_key, -1)
        )

    def _gate_in(self, value: Tensor) -> Tensor:
        """Return the gate that is stored with one value, shape ``(gate_size,)``."""
        return value[self._value_size : self._value_size + self.gate_size]

    def _initial_radius(self, value: Tensor | None) -> float:
        """Return a new key's radius: the one that is stored with its value, otherwise ``eps``."""
        return float(value[-1]) if value is not None and self.per_edit_eps else self.eps

    @property
    def radii(self) -> Tensor:
        """The deferral radii, shape ``(n,)``."""
        return self._arrays["radii"]

    def tensors(self) -> dict[str, Tensor]:
        """Return keys, values (with gates and initial radii), radii and what the search has computed of the keys."""
        return {name: self._arrays[name] for name in ARRAY_NAMES} | self._search.tensors(self._search_rows)

    def adopt(self, tensors: Mapping[str, Tensor], labels: MutableSequence[Label]) -> None:
        """Replace all keys by those of a memory-mapped file, whose tensors :meth:`tensors` returned.

        Raises:
            ValueError: the tensors of the search don't fit the keys.
        """
        self._arrays.adopt(*(tensors[name] for name in ARRAY_NAMES))
        self.labels = labels
        self._search.reset()
        if PROJECTION_TENSORS[0] in tensors:
            self._search.restore(tensors, self._search_rows)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, reserved rows and the search's tensors included."""
        return self._arrays.nbytes + self._search.nbytes

    def _mark_changed(self, index: int) -> None:
        """Tell the search that a key has changed."""
        for vector in range(index * self.vectors_per_key, (index + 1) * self.vectors_per_key):
            self._search.mark_changed(vector)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KeyStore:
        """Move the tensors when the model moves to another device; never change their dtype."""
        device_before = self.device
        self._arrays.move(fn)
        if self.device != device_before:
            self._search.reset()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in ARRAY_NAMES:  # values include gates and initial radii
            destination[prefix + name] = self._arrays[name].clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, _metadata: Any, strict: bool, missing_keys: list[str], *_: Any
    ) -> None:
        missing = [prefix + name for name in ARRAY_NAMES if prefix + name not in state_dict]
        if missing:
            missing_keys += missing if strict else []
            return
        keys, values, radii = (state_dict[prefix + name] for name in ARRAY_NAMES)
        self.hits.clear()  # the counts belong to the former keys
        # The state_dict has no labels. Keys beyond the present ones get the empty label, which no later edit has.
        self.labels = [*self.labels[: len(keys)], *[()] * (len(keys) - len(self.labels))]
        self._arrays.replace(keys, values, radii)
        self._search.reset()
