"""Growing tensors for a codebook: its keys, values and radii, one row per key.

Storage doubles when it is full, so that adding a row rarely copies the others. Values and radii are float32. Keys have
the narrowest dtype that holds all of them *exactly*: two bytes per number for a model in half precision. The first key
that needs more precision converts all keys to float32. So the dtype changes no decision; it only saves memory and
time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

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

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._length

    def __getitem__(self, name: str) -> Tensor:
        """Return ``keys``, ``(n, key_size)``, ``values``, ``(n, value_size)``, or ``radii``, ``(n,)``."""
        return self._tensors[name][: self._length]

    @property
    def nbytes(self) -> int:
        """Bytes of memory, reserved rows included."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def row(self, index: int) -> KeyTensors:
        """Return a float32 copy of a row."""
        return KeyTensors(*(tensor[index].float().clone() for tensor in self._tensors.values()))

    def append(self, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Add a row."""
        if self._length == len(self._tensors["keys"]):
            for name, old in self._tensors.items():
                self._tensors[name] = old.new_empty(max(16, 2 * self._length), *old.shape[1:])
                self._tensors[name][: self._length] = old[: self._length]
        self.write(self._length, key, value, radius)
        self._length += 1

    def write(self, index: int, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Overwrite a row."""
        self.write_key(index, key)
        self._tensors["values"][index] = value.to(self._tensors["values"])
        self._tensors["radii"][index] = torch.as_tensor(radius).to(self._tensors["radii"])

    def write_key(self, index: int, key: Tensor) -> None:
        """Overwrite the key of a row."""
        keys = self._tensors["keys"]
        if index == 0 and self._length <= 1:  # no other key needs the present dtype
            keys = keys.to(_narrowest_dtype(key))
        elif not _holds_exactly(keys.dtype, key):
            keys = keys.float()
        keys[index] = key.to(keys)
        self._tensors["keys"] = keys

    def truncate(self, length: int) -> None:
        """Drop all rows but the first ``length``."""
        self._length = length

    def replace(self, keys: Tensor, values: Tensor, radii: Tensor) -> None:
        """Replace all rows by copies of these, on the present device."""
        device = self._tensors["keys"].device
        self._tensors = {
            "keys": keys.to(device, _narrowest_dtype(keys), copy=True),
            "values": values.to(device, torch.float32, copy=True),
            "radii": radii.to(device, torch.float32, copy=True),
        }
        self._length = len(keys)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the tensors to another device; keep their dtypes.

        Args:
            fn: the function that ``Module._apply`` receives. Only the device of its result is used.
        """
        self._tensors = {name: tensor.to(fn(tensor).device) for name, tensor in self._tensors.items()}


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
