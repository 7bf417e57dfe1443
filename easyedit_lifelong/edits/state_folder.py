"""The state folder of a run: an edits folder that gets a new file with every step.

The folder's ``edits.json`` names the model, the method and its hyperparameters, and is written once.
:mod:`~easyedit_lifelong.edits.step_files` writes and reads the steps; the first steps can be loaded without the later
ones. ``load_edits`` reads a state folder like any other edits folder.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX, STEPS_VERSION, folder_write_errors, read_index, write_index
from easyedit_lifelong.edits.folder_parts import provenance
from easyedit_lifelong.edits.step_entries import step_count, step_file
from easyedit_lifelong.edits.step_files import read_steps, write_step
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import AppendableEditStore, EditsPart, OldStateReader
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label


@dataclass(frozen=True)
class _Written:
    """How many of a model's steps are in a folder, as far as this process knows.

    Attributes:
        count: the number of the model's first steps that the folder holds.
        last: the last of them: the object in the store's history.
        digest: the chained digest of the last of them.
        no_further_steps: whether it is known that the folder holds no other steps.
    """

    count: int = 0
    last: object = None
    digest: str = ""
    no_further_steps: bool = False

    def is_beginning_of(self, history: Sequence[object]) -> bool:
        """Return whether the written steps are the first steps of a history; not if edits were rolled back since."""
        return self.count == 0 or (self.count <= len(history) and history[self.count - 1] is self.last)


@dataclass(frozen=True)
class _SavedState:
    """The content of a state folder.

    Attributes:
        path: the index, for messages.
        model: name of the model that the edits were made on.
        fingerprint: the fingerprint of that model's unedited weights.
        settings: the hyperparameters that a resumed run must share, by name.
        steps: a part for each step, in order.
        digest: the chained digest of the last step; empty for a folder of version 0.1, whose steps have none.
    """

    path: Path
    model: str
    fingerprint: str
    settings: Mapping[str, Any]
    steps: Sequence[EditsPart]
    digest: str = ""


class StateFolder:
    """Saves and loads the state folders of runs, for a method with an appendable edit store.

    Args:
        method: the method's name.
        store: the method's edit store.
    """

    def __init__(self, method: str, store: AppendableEditStore) -> None:
        self._method, self._store = method, store
        self._written: weakref.WeakKeyDictionary[Any, dict[Path, _Written]] = weakref.WeakKeyDictionary()

    def carries(self, model: Any) -> bool:
        """Return whether a model carries edits of the method."""
        return bool(self._store.history(model))

    def save(
        self, model: Any, folder: Path, case_ids: Sequence[int | str] = (), fingerprint: str | None = None
    ) -> None:
        """Make a folder hold the edits of a model: write new steps, and delete steps that were rolled back.

        Steps that the folder holds already are not written again.

        Args:
            model: the model; if it has no edits, no folder is made.
            folder: the folder; made if it does not exist.
            case_ids: not used: the steps name their cases.
            fingerprint: the fingerprint of the model's unedited weights, if the caller knows it. None: it is computed.

        Raises:
            RunError: the folder can't be written, or the model carries edits that one folder can't hold.
        """
        history = self._store.history(model)
        if not history and not (folder / INDEX).exists():
            return
        folders = self._written.setdefault(model, {})
        written = folders.get(folder, _Written())
        if not written.is_beginning_of(history):
            written = _Written()  # write all steps again
        with folder_write_errors(folder, f"{self._method}'s edits"):
            if written.count:
                _check_still_there(folder, written.count)
            folder.mkdir(parents=True, exist_ok=True)
            digest, hparams = written.digest, None
            new_steps = self._store.steps(model, written.count) if history else iter(())
            for number, part in enumerate(new_steps, written.count + 1):
                digest, hparams = write_step(step_file(folder, number), part, digest), part.hparams
            if not history:
                (folder / INDEX).unlink()
            elif not written.count:
                self._write_index(model, folder, hparams, fingerprint)
            if not written.no_further_steps:
                for number in range(len(history) + 1, step_count(folder) + 1):
                    step_file(folder, number).unlink(missing_ok=True)
        folders[folder] = _Written(len(history), history[-1] if history else None, digest, no_further_steps=True)

    def load(
        self,
        model: Any,
        tok: Any,
        hparams: Any,
        folder: Path,
        case_ids: Sequence[int | str] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Load the edits of a folder onto a model that carries no edits of the method.

        Args:
            model: the model.
            tok: its tokenizer.
            hparams: the method's hyperparameters.
            folder: the state folder.
            case_ids: load only the folder's first edits, which must be the edits of these cases, in order. None: all.
            fingerprint: the fingerprint of the model's weights, if the caller knows it. None: it is computed.

        Raises:
            RunError: the folder is incomplete or damaged, belongs to another model, holds other edits, or was made with
                other settings; the message names the file and the difference.
            ModelError: the model lacks a layer that was edited.
        """
        state = self._read(folder, hparams, case_ids)
        path = str(state.path)
        if self._store.history(model):
            raise RunError(
                f"{path}: the model carries {self._method} edits already; load these onto the unedited model"
            )
        if not state.steps:
            return
        _check_model(state, model, fingerprint or model_fingerprint(model))
        _check_settings(state, self._store.shared_settings(hparams))
        self._store.attach(model, tok, self._store.join(state.steps, path), path)
        if state.digest:
            history = self._store.history(model)
            self._written.setdefault(model, {})[folder] = _Written(len(history), history[-1], state.digest)

    def _read(self, folder: Path, hparams: Any, case_ids: Sequence[int | str] | None) -> _SavedState:
        """Return the content of a state folder of this version or 0.1; the arguments are those of :meth:`load`."""
        path = folder / INDEX
        if not path.exists():
            old = self._store.read_old_state(folder, case_ids) if isinstance(self._store, OldStateReader) else None
            if old is None:
                raise RunError(f"{path}: no such file; this folder holds no {self._method} edits")
            return _SavedState(old.path, old.model, old.fingerprint, old.settings, old.steps)
        index = read_index(folder)
        try:
            (part,) = index["parts"]
            method, saved_hparams = part["method"], part["hparams"]
            model_name, fingerprint = index["model"]["name"], index["model"]["fingerprint"]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: lacks {error}; it isn't the index of a run's edits") from error
        if index["format_version"] != STEPS_VERSION or method != self._method:
            raise RunError(f"{path}: isn't the index of a run's {self._method} edits")
        settings = self._store.shared_settings(type(hparams).from_values(saved_hparams, str(path)))
        steps, digest = read_steps(folder, saved_hparams, case_ids)
        return _SavedState(path, model_name, fingerprint, settings, steps, digest)

    def _write_index(
        self, model: Any, folder: Path, hparams: Mapping[str, Any] | None, fingerprint: str | None
    ) -> None:
        """Write the index, and delete the files of a state that version 0.1 wrote."""
        part = {"method": self._method, "hparams": hparams}
        write_index(folder, STEPS_VERSION, {**provenance(model, fingerprint), "parts": [part]})
        if isinstance(self._store, OldStateReader):
            for pattern in self._store.old_state_files:
                for path in folder.glob(pattern):
                    path.unlink()


def _check_still_there(folder: Path, count: int) -> None:
    """Check that a folder still has the steps that were written to it.

    Raises:
        RunError: the index or the last step is missing.
    """
    for path in (folder / INDEX, step_file(folder, count)):
        if not path.exists():
            raise RunError(
                f"{path}: has been deleted since this run wrote it. Without it, the run can't be resumed and its edits "
                "can't be loaded. Begin the run again, in another folder."
            )


def _check_model(state: _SavedState, model: Any, fingerprint: str) -> None:
    """Check that saved edits were made on this model, whose weights have this fingerprint.

    Raises:
        RunError: they were made on a model with other weights.
    """
    if state.fingerprint != fingerprint:
        raise RunError(
            f"{state.path}: was made on {state.model!r} with other weights than this {model_label(model)!r} has "
            "(the fingerprints differ). Load the same, unedited model."
        )


def _check_settings(state: _SavedState, settings: Mapping[str, Any]) -> None:
    """Check that saved edits were made with these settings; settings that an older folder lacks are not compared.

    Raises:
        RunError: a setting differs; the message names it.
    """
    for name, value in state.settings.items():
        if settings.get(name) != value:
            raise RunError(f"{state.path}: was made with {name}={value!r}; now it is {settings.get(name)!r}")
