"""Growing tensors for a codebook: its keys, values and radii, one row per key.

Storage doubles when it is full, so that adding a row rarely copies the others. Keys and values that were loaded from a
folder of many edits stay in its memory-mapped file; the operating system copies what is overwritten. Values and radii
are float32. Keys have the narrowest dtype that holds all of them *exactly*: two bytes per number for a model in half
precision. The first key that needs more precision converts all keys to float32. So the dtype changes no decision; it
only saves memory and time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.subject_keys.segmented_rows import Rows, SegmentedRows, in_one_tensor

ARRAY_NAMES = ("keys", "values", "radii")
"""Names of a codebook's tensors, in memory and in files."""

_HALF_PRECISION = (torch.bfloat16, torch.float16)

_BLOCK_ROWS = 4096
"""Keys of which :func:`_holds_exactly` makes temporary copies at once."""


class KeyTensors(NamedTuple):
    """The row of one key in all tensors.

    Attributes:
        key: shape ``(key_size,)``.
        value: shape ``(value_size,)``.
        radius: shape ``()``.
    """

    key: Tensor
    value: Tensor
    radius: Tensor


class CodebookArrays:
    """Keys, values and radii, one row per key.

    Args:
        key_size: width of a key.
        value_size: width of a value with its gate and radius.
        device: device of the tensors.
    """

    def __init__(self, key_size: int, value_size: int, device: torch.device | str | None = None) -> None:
        self._length = 0
        shapes = ((0, key_size), (0, value_size), (0,))
        self._tensors = {
            name: torch.empty(shape, device=device) for name, shape in zip(ARRAY_NAMES, shapes, strict=True)
        }
        """The rows in memory, with reserved rows after them."""
        self._mapped = dict(self._tensors)
        """The first rows, if they are in a memory-mapped file; none of the radii."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._length

    def __getitem__(self, name: str) -> Tensor:
        """Return ``keys``, ``(n, key_size)``, ``values``, ``(n, value_size)``, or ``radii``, ``(n,)``.

        It is a copy if some rows are in a memory-mapped file and others are not.
        """
        return in_one_tensor(self.rows(name))

    def rows(self, name: str) -> Rows:
        """Return all rows of ``keys``, ``values`` or ``radii``, not copied."""
        n_mapped = len(self._mapped[name])
        in_memory = self._tensors[name][: self._length - n_mapped]
        if not n_mapped:
            return in_memory
        return SegmentedRows([self._mapped[name], in_memory]) if len(in_memory) else self._mapped[name]

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self._tensors["keys"].device

    def width(self, name: str) -> int:
        """Return the width of a row of ``keys`` or ``values``."""
        return self._tensors[name].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory, reserved rows included; rows in a memory-mapped file take none."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def row(self, index: int) -> KeyTensors:
        """Return a float32 copy of a row."""
        places = (self._place(name, index) for name in ARRAY_NAMES)
        return KeyTensors(*(tensor[place].float().clone() for tensor, place in places))

    def append(self, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Add a row."""
        for name, old in self._tensors.items():
            used = self._length - len(self._mapped[name])
            if used == len(old):
                self._tensors[name] = old.new_empty(max(16, 2 * used), *old.shape[1:])
                self._tensors[name][:used] = old
        self.write(self._length, key, value, radius)
        self._length += 1

    def write(self, index: int, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Overwrite a row."""
        self.write_key(index, key)
        self.write_value(index, value)
        tensor, place = self._place("radii", index)
        tensor[place] = torch.as_tensor(radius).to(tensor)

    def write_key(self, index: int, key: Tensor) -> None:
        """Overwrite the key of a row."""
        dtype = self._tensors["keys"].dtype
        if index == 0 and self._length <= 1:  # no other key needs the present dtype
            self._convert_keys(_narrowest_dtype(key))
        elif not _holds_exactly(dtype, key):
            self._convert_keys(torch.float32)
        tensor, place = self._place("keys", index)
        tensor[place] = key.to(tensor)

    def write_value(self, index: int, value: Tensor) -> None:
        """Overwrite the value of a row."""
        tensor, place = self._place("values", index)
        tensor[place] = value.to(tensor)

    def _place(self, name: str, index: int) -> tuple[Tensor, int]:
        """Return the tensor that holds a row, and the row's index in it. A write to a mapped tensor changes no file."""
        n_mapped = len(self._mapped[name])
        return (self._mapped[name], index) if index < n_mapped else (self._tensors[name], index - n_mapped)

    def _convert_keys(self, dtype: torch.dtype) -> None:
        """Change the dtype of all keys."""
        for tensors in (self._tensors, self._mapped):
            tensors["keys"] = tensors["keys"].to(dtype)

    def truncate(self, length: int) -> None:
        """Drop all rows but the first ``length``."""
        self._length = length
        self._mapped = {name: tensor[:length] for name, tensor in self._mapped.items()}

    def replace(self, keys: Tensor, values: Tensor, radii: Tensor) -> None:
        """Replace all rows by copies of these, on the present device."""
        self._tensors = {
            "keys": keys.to(self.device, _narrowest_dtype(keys), copy=True),
            "values": values.to(self.device, torch.float32, copy=True),
            "radii": radii.to(self.device, torch.float32, copy=True),
        }
        self._mapped = {name: tensor[:0] for name, tensor in self._tensors.items()}
        self._length = len(keys)

    def adopt(self, keys: Tensor, values: Tensor, radii: Tensor) -> None:
        """Replace all rows by these, which are in a memory-mapped file. On a CPU, keys and values are not copied.

        Args:
            keys: shape ``(n, key_size)``, float32 or a half-precision dtype.
            values: shape ``(n, value_size)``, float32.
            radii: shape ``(n,)``, float32.
        """
        self._mapped = {"keys": keys.to(self.device), "values": values.to(self.device)}
        self._tensors = {name: tensor.new_empty(0, tensor.shape[1]) for name, tensor in self._mapped.items()}
        self._tensors["radii"] = radii.to(self.device, copy=True)
        self._mapped["radii"] = self._tensors["radii"][:0]
        self._length = len(keys)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the tensors to another device; keep their dtypes.

        Args:
            fn: the function that ``Module._apply`` receives. Only the device of its result is used.
        """
        device = fn(self._tensors["radii"][:0]).device
        self._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        self._mapped = {name: tensor.to(device) for name, tensor in self._mapped.items()}


def _holds_exactly(dtype: torch.dtype, keys: Tensor) -> bool:
    """Whether a dtype holds keys without rounding; NaN needs float32."""
    if dtype in (torch.float32, keys.dtype):
        return True
    blocks = keys.unsqueeze(0) if keys.dim() == 1 else keys.split(_BLOCK_ROWS)
    return all(torch.equal(block.to(dtype).to(block.dtype), block) for block in blocks)


def _narrowest_dtype(keys: Tensor) -> torch.dtype:
    """Return the narrowest dtype that holds keys exactly; float32 for no keys."""
    if not len(keys):
        return torch.float32
    return next((dtype for dtype in _HALF_PRECISION if _holds_exactly(dtype, keys)), torch.float32)
