"""Tensors that grow: a codebook's keys, values and radii, a row for each key.

Storage doubles when it is full, so that adding a row doesn't copy all the others. Values and radii are float32. Keys
are stored in the narrowest type that holds every one of them *exactly*: half as many bytes hold the keys of a model in
half precision, and the first key that needs more widens them all to float32. So no decision depends on the type, and a
codebook for such a model is smaller, and read faster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NAMES = ("keys", "values", "radii")

_NARROW = (torch.bfloat16, torch.float16)

_BLOCK = 4096
"""Rows that are compared at once."""


class Entries:
    """Keys, values and radii.

    Args:
        key_size: width of a key.
        value_size: width of a value with its gate and radius.
        device: where to store them.
    """

    def __init__(self, key_size: int, value_size: int, device: torch.device | str | None = None) -> None:
        self._length = 0
        shapes = ((0, key_size), (0, value_size), (0,))
        self._arrays = {name: torch.empty(shape, device=device) for name, shape in zip(NAMES, shapes, strict=True)}

    def __len__(self) -> int:
        """Count the rows."""
        return self._length

    def __getitem__(self, name: str) -> Tensor:
        """Return ``keys``, ``(n, key_size)``, ``values``, ``(n, value_size)``, or ``radii``, ``(n,)``."""
        return self._arrays[name][: self._length]

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use and in reserve."""
        return sum(array.nbytes for array in self._arrays.values())

    def row(self, index: int) -> tuple[Tensor, ...]:
        """Return a copy of a row, in float32."""
        return tuple(array[index].float().clone() for array in self._arrays.values())

    def append(self, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Add a row."""
        if self._length == len(self._arrays["keys"]):
            for name, old in self._arrays.items():
                self._arrays[name] = old.new_empty(max(16, 2 * self._length), *old.shape[1:])
                self._arrays[name][: self._length] = old[: self._length]
        self.write(self._length, key, value, radius)
        self._length += 1

    def write(self, index: int, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Put another row in a row's place."""
        self.write_key(index, key)
        self._arrays["values"][index] = value.to(self._arrays["values"])
        self._arrays["radii"][index] = torch.as_tensor(radius).to(self._arrays["radii"])  # a number, or any tensor

    def write_key(self, index: int, key: Tensor) -> None:
        """Put another key in a key's place."""
        keys = self._arrays["keys"]
        if index == 0 and self._length <= 1:  # the only key: it alone decides the type
            keys = keys.to(_narrowest(key))
        elif not _holds(keys.dtype, key):
            keys = keys.float()
        keys[index] = key.to(keys)
        self._arrays["keys"] = keys

    def shorten(self, length: int) -> None:
        """Forget the rows from this one on."""
        self._length = length

    def replace(self, keys: Tensor, values: Tensor, radii: Tensor) -> None:
        """Store copies of other rows instead, on the same device."""
        device, dtypes = self._arrays["keys"].device, (_narrowest(keys), torch.float32, torch.float32)
        self._length = len(keys)
        for name, array, dtype in zip(NAMES, (keys, values, radii), dtypes, strict=True):
            self._arrays[name] = array.to(device, dtype, copy=True)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow a model to another device, but never to another dtype."""
        self._arrays = {name: array.to(fn(array).device) for name, array in self._arrays.items()}


def _holds(dtype: torch.dtype, keys: Tensor) -> bool:
    """Whether a type holds keys to the last bit; it doesn't hold what isn't a number."""
    if dtype in (torch.float32, keys.dtype):
        return True
    blocks = keys.unsqueeze(0) if keys.dim() == 1 else keys.split(_BLOCK)
    return all(torch.equal(block.to(dtype).to(block.dtype), block) for block in blocks)


def _narrowest(keys: Tensor) -> torch.dtype:
    """Return the narrowest type that holds keys exactly; none are held by float32."""
    if not len(keys):
        return torch.float32
    return next((dtype for dtype in _NARROW if _holds(dtype, keys)), torch.float32)
