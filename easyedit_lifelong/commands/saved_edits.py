"""Saved edits as the verbs use them: their options, their folder, and the model that they were made on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.edits_hub import edits_folder
from easyedit_lifelong.edits.parts import read_description
from easyedit_lifelong.errors import ModelError, RunError
from easyedit_lifelong.models.load import load_model


def add_saved_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name saved edits and the model that they are put on."""
    add = parser.add_argument
    add("--edits", required=True, metavar="DIR", help="saved edits: a folder, or hub:OWNER/NAME[@REVISION]")
    add("--model", help="model name or folder (default: as the edits name it)")
    add(
        "--dtype", choices=("float32", "bfloat16", "float16", "auto"), help="of its weights (default: as for the edits)"
    )
    add("--device", help="where the model goes (default: the best there is)")


def saved_of(arguments: argparse.Namespace) -> Saved:
    """Return the saved edits that the options of :func:`add_saved_arguments` name.

    Raises:
        RunError: there are none, or their index is damaged.
    """
    return Saved.of(arguments.edits, arguments.model, arguments.device, arguments.dtype)


@dataclass(frozen=True)
class Saved:
    """Saved edits, and the options of the model that they are put on.

    Attributes:
        folder: where they are on this machine.
        made_on: name of the model that they were made on.
        edits: all edits, in the order of their parts.
        model: the model's name or folder; None for the one that they were made on.
        device: where it goes.
        dtype: of its weights; None for the one of their hyperparameters.
    """

    folder: Path
    made_on: str
    edits: list[dict[str, Any]]
    model: str | None = None
    device: str | None = None
    dtype: str | None = None

    @classmethod
    def of(cls, edits: str, model: str | None = None, device: str | None = None, dtype: str | None = None) -> Saved:
        """Find saved edits, in a folder or on the Hub (``hub:OWNER/NAME[@REVISION]``).

        Raises:
            RunError: there are none, or their index is damaged.
        """
        folder = edits_folder(edits)
        index = read_description(folder)
        try:
            made_on, parts = str(index["model"]["name"]), index["parts"]
            records = [dict(edit) for part in parts for edit in part["edits"]]
            saved_dtype = parts[0]["hparams"].get("dtype") if parts else None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{folder / INDEX}: isn't the index of saved edits: {error}") from error
        return cls(folder, made_on, records, model, device, dtype or saved_dtype)

    def base_model(self) -> tuple[Any, Any]:
        """Load the model that they are put on, without them, and its tokenizer.

        Code that comes with a checkpoint is not run, even if the edits' hyperparameters allow it.

        Raises:
            ModelError: it cannot be loaded.
        """
        try:
            return load_model(self.model or self.made_on, self.device, self.dtype)
        except ModelError as error:
            if self.model is not None:
                raise
            raise ModelError(
                f"{self.folder / INDEX}: these edits were made on {self.made_on!r}, which can't be had here. Say where "
                f"it is with --model. ({error})"
            ) from error


def amount_of(count: int) -> str:
    """Return a number of edits in words: ``1 edit``, ``2 edits``."""
    return f"{count} edit{'s' if count != 1 else ''}"
