"""Refuse to pickle an edited model, with a message that says what to do instead."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NoReturn

from easyedit_lifelong.errors import EditError

if TYPE_CHECKING:
    from typing_extensions import Self


class NotPicklable:
    """A part of an edited model, which can be copied together with the model, but not pickled.

    Pickle would store code of this package and of the model, and could not restore the hooks of another version.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a deep copy, as ``copy.deepcopy`` makes it of other objects."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            EditError: always.
        """
        raise EditError(
            "an edited model can't be pickled (by torch.save, or to pass it to another process). Save its edits with "
            "save_edits(model, folder) and load them onto the unedited model with load_edits(model, folder); or save "
            "model.state_dict(), or roll the edits back first."
        )
