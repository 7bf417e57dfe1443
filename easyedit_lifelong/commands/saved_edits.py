"""Saved edits for commands: their folder, and the model that they were made on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.edits_hub import edits_folder
from easyedit_lifelong.edits.folder_parts import read_description
from easyedit_lifelong.errors import ModelError, RunError
from easyedit_lifelong.models.load import load_model


def saved_edits_from(arguments: argparse.Namespace) -> SelectedEdits:
    """Return the saved edits that the options of :func:`add_saved_arguments` name.

    Raises:
        RunError: there are no saved edits, or their index is damaged.
    """
    return SelectedEdits.of(arguments.edits, arguments.model, arguments.device, arguments.dtype)


@dataclass(frozen=True)
class SelectedEdits:
    """The saved edits that the command line selects, and the options of the model to load them onto.

    Attributes:
        folder: the folder of the edits on this machine.
        made_on: name of the model that the edits were made on.
        edits: the records of all edits, in the order of the folder's parts.
        model: name or folder of the model; None for ``made_on``.
        device: device of the model; None for the best available.
        dtype: data type of the weights; None for that of the edits' hyperparameters.
    """

    folder: Path
    made_on: str
    edits: list[dict[str, Any]]
    model: str | None = None
    device: str | None = None
    dtype: str | None = None

    @classmethod
    def of(
        cls, edits: str, model: str | None = None, device: str | None = None, dtype: str | None = None
    ) -> SelectedEdits:
        """Find saved edits, in a folder or on the Hub (``hub:OWNER/NAME[@REVISION]``).

        Raises:
            RunError: there are no saved edits, or their index is damaged.
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
        """Load the model, without the edits, and its tokenizer.

        Code in the checkpoint is never run, even if the edits' hyperparameters have ``trust_remote_code``.

        Raises:
            ModelError: the model can't be loaded.
        """
        try:
            return load_model(self.model or self.made_on, self.device, self.dtype)
        except ModelError as error:
            if self.model is not None:
                raise
            raise ModelError(
                f"{self.folder / INDEX}: these edits were made on {self.made_on!r}, which can't be loaded. Give its "
                f"name or folder with --model. ({error})"
            ) from error
