"""What a codebook holds of its keys, as tensors that grow: keys, values and radii, a row each.

Storage doubles when it is full, so that adding a row doesn't copy all the others. Values and radii are float32. Keys
are kept in the narrowest type that holds every one of them *exactly*: a model in half precision hands keys over that
half as many bytes tell in full, and the first key that needs more widens them all to float32. So nothing that is
decided by keys depends on the type; a codebook for such a model is smaller, and read faster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NAMES = ("keys", "values", "radii")

_NARROW = (torch.bfloat16, torch.float16)

_BLOCK = 4096
"""Rows that are looked at at once when all are."""


class Entries:
    """Keys, values and radii.

    Args:
        key_size: width of a key.
        value_size: width of a value, with what stands behind it.
        device: where to keep them.
    """

    def __init__(self, key_size: int, value_size: int, device: torch.device | str | None = None) -> None:
        self._length = 0
        self._keys = torch.empty(0, key_size, device=device)
        self._values = torch.empty(0, value_size, device=device)
        self._radii = torch.empty(0, device=device)

    def __len__(self) -> int:
        """Count the rows."""
        return self._length

    @property
    def keys(self) -> Tensor:
        """The keys, shape ``(n, key_size)``: float32, or the half precision that holds them all."""
        return self._keys[: self._length]

    @property
    def values(self) -> Tensor:
        """The values, shape ``(n, value_size)``."""
        return self._values[: self._length]

    @property
    def radii(self) -> Tensor:
        """The radii, shape ``(n,)``."""
        return self._radii[: self._length]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._keys.device

    @property
    def key_size(self) -> int:
        """Width of a key."""
        return self._keys.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use and in reserve."""
        return self._keys.nbytes + self._values.nbytes + self._radii.nbytes

    def row(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a copy of a row, in float32."""
        return self._keys[index].float().clone(), self._values[index].clone(), self._radii[index].clone()

    def append(self, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Add a row."""
        if self._length == len(self._keys):
            self._reserve(max(16, 2 * self._length))
        self.write(self._length, key, value, radius)
        self._length += 1

    def write(self, index: int, key: Tensor, value: Tensor, radius: float | Tensor) -> None:
        """Put another row in a row's place."""
        self.write_key(index, key)
        self._values[index] = value.to(self._values)
        self._radii[index] = torch.as_tensor(radius).to(self._radii)  # a number, or a tensor from anywhere

    def write_key(self, index: int, key: Tensor) -> None:
        """Put another key in a key's place."""
        if index == 0 and self._length <= 1:  # the only one: it alone says what it needs
            self._keys = self._keys.to(_narrowest(key))
        elif not _holds(self._keys.dtype, key):
            self._keys = self._keys.float()
        self._keys[index] = key.to(self._keys)

    def shorten(self, length: int) -> None:
        """Forget the rows from this one on."""
        self._length = length

    def replace(self, keys: Tensor, values: Tensor, radii: Tensor) -> None:
        """Hold copies of other rows instead, on the device that these are on."""
        device = self.device
        self._length = len(keys)
        self._keys = keys.to(device, _narrowest(keys), copy=True)
        self._values, self._radii = (tensor.to(device, torch.float32, copy=True) for tensor in (values, radii))

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow a model to another device, but never to another dtype."""
        for name in NAMES:
            tensor = getattr(self, f"_{name}")
            setattr(self, f"_{name}", tensor.to(fn(tensor).device))

    def _reserve(self, capacity: int) -> None:
        for name in NAMES:
            old = getattr(self, f"_{name}")
            new = old.new_empty(capacity, *old.shape[1:])
            new[: self._length] = old[: self._length]
            setattr(self, f"_{name}", new)


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
