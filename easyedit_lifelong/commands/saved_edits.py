"""What the commands that use saved edits share: where they are, and the model that they go onto."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.edits_hub import edits_folder
from easyedit_lifelong.edits.parts import read_description
from easyedit_lifelong.errors import ModelError, RunError
from easyedit_lifelong.models.load import load_model


@dataclass(frozen=True)
class Saved:
    """Saved edits, and the options that say which model they go onto.

    Attributes:
        folder: where they are on this machine.
        index: what their ``edits.json`` says.
        model: the model's name or folder; None for the one that they were made on.
        device: where it goes.
        dtype: of its weights; None for the one that they were made in.
    """

    folder: Path
    index: dict[str, Any]
    model: str | None = None
    device: str | None = None
    dtype: str | None = None

    @classmethod
    def of(cls, edits: str, model: str | None, device: str | None, dtype: str | None) -> Saved:
        """Find saved edits, in a folder or on the Hub (``hub:OWNER/NAME[@REVISION]``).

        Raises:
            RunError: there are none, or their index isn't whole.
        """
        folder = edits_folder(edits)
        return cls(folder, read_description(folder), model, device, dtype)

    @property
    def made_on(self) -> str:
        """The name of the model that they were made on."""
        return str(self._noted("model", "name"))

    @property
    def edits(self) -> list[dict[str, Any]]:
        """All edits, in the order of their parts."""
        parts: Any = self._noted("parts")
        try:
            return [dict(edit) for part in parts for edit in part["edits"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self.folder / INDEX}: isn't the index of saved edits: {error}") from error

    def base_model(self) -> tuple[Any, Any]:
        """Load the model that they go onto, without them, and its tokenizer.

        Whatever the folder says, code that comes with a checkpoint isn't run.

        Raises:
            ModelError: it can't be loaded.
        """
        dtype = self.dtype or self._dtype()
        if self.model is not None:
            return load_model(self.model, self.device, dtype)
        try:
            return load_model(self.made_on, self.device, dtype)
        except ModelError as error:
            raise ModelError(
                f"{self.folder / INDEX}: these edits were made on {self.made_on!r}, which can't be had here. Say where "
                f"it is with --model. ({error})"
            ) from error

    def _dtype(self) -> str | None:
        """Return the dtype of the weights that the edits were made on, as far as their hyperparameters tell."""
        try:
            return self._noted("parts")[0]["hparams"].get("dtype")
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{self.folder / INDEX}: isn't the index of saved edits: {error}") from error

    def _noted(self, *names: str) -> Any:
        value: Any = self.index
        try:
            for name in names:
                value = value[name]
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.folder / INDEX}: lacks {error}; it isn't the index of saved edits") from error
        return value


def amount_of(count: int) -> str:
    """Say how many edits there are."""
    return f"{count} edit{'s' if count != 1 else ''}"
