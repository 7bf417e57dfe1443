"""The edits of a run: a folder of edits that grows by a file with every step, and of which a prefix can be loaded.

The folder's ``edits.json`` names the model, the method and its hyperparameters and is written once; the steps are in
:mod:`~easyedit_lifelong.edits.step_files`. ``load_edits`` reads such a folder like any other folder of edits.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX, STEPS_VERSION, read_index, write_index, writing
from easyedit_lifelong.edits.parts import description
from easyedit_lifelong.edits.step_files import read_steps, step_count, step_file, write_step
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import AppendableEditStore, OldStateReader
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label


@dataclass(frozen=True)
class _Written:
    """How far a folder is up to date with a model.

    Attributes:
        count: how many of the model's steps are in it.
        last: the last of them, as the store's history has it.
        digest: of all of them.
        exact: whether the folder is known to hold no further steps.
    """

    count: int = 0
    last: object = None
    digest: str = ""
    exact: bool = False


class StateFolder:
    """Saves and loads the edits of a method whose edit store is appendable.

    Args:
        method: the method's name.
        store: its edit store.
    """

    def __init__(self, method: str, store: AppendableEditStore) -> None:
        self._method, self._store = method, store
        self._written: weakref.WeakKeyDictionary[Any, dict[Path, _Written]] = weakref.WeakKeyDictionary()

    def carries(self, model: Any) -> bool:
        """Tell whether a model carries edits of the method."""
        return bool(self._store.history(model))

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Bring a folder up to date with the edits that a model carries; steps that are in it are not written again.

        Args:
            model: the model; without edits nothing is written.
            folder: where to; made if it isn't there.
            case_ids: not needed: the steps name their cases.

        Raises:
            RunError: it can't be written, or the model carries edits that one folder can't hold.
        """
        history = self._store.history(model)
        if not history and not (folder / INDEX).exists():
            return
        folders = self._written.setdefault(model, {})
        written = folders.get(folder, _Written())
        if written.count > len(history) or (written.count and history[written.count - 1] is not written.last):
            written = _Written()  # edits have been rolled back since
        with writing(folder, f"{self._method}'s edits"):
            folder.mkdir(parents=True, exist_ok=True)
            digest, hparams = written.digest, None
            steps = self._store.steps(model, written.count) if history else iter(())
            for number, part in enumerate(steps, written.count + 1):
                digest, hparams = write_step(step_file(folder, number), part, digest), part.hparams
            if not history:
                (folder / INDEX).unlink()
            elif not written.count:
                self._write_index(model, folder, hparams)
            if not written.exact:
                for number in range(len(history) + 1, step_count(folder) + 1):
                    step_file(folder, number).unlink(missing_ok=True)
        folders[folder] = _Written(len(history), history[-1] if history else None, digest, exact=True)

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Put the edits of a folder on a model that carries none of the method.

        Args:
            model: the model.
            tok: its tokenizer.
            hparams: the method's hyperparameters.
            folder: what was saved.
            case_ids: the requests whose edits count, in order: the folder's first ones. None: all of them.

        Raises:
            RunError: the folder can't be used, belongs to another model, doesn't hold these edits, or was made with
                other settings; the message names the file and says what differs.
            ModelError: the model lacks what was edited.
        """
        path, digest = folder / INDEX, ""
        if path.exists():
            index = read_index(folder)
            try:
                (described,) = index["parts"]
                method, stored = described["method"], described["hparams"]
                made_on, fingerprint = index["model"]["name"], index["model"]["fingerprint"]
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(f"{path}: lacks {error}; it isn't the index of a run's edits") from error
            if index["format_version"] != STEPS_VERSION or method != self._method:
                raise RunError(f"{path}: isn't the index of a run's {self._method} edits")
            settings = self._store.shared_settings(type(hparams).from_values(stored, str(path)))
            steps, digest = read_steps(folder, stored, case_ids)
        else:
            old = self._store.read_old_state(folder, case_ids) if isinstance(self._store, OldStateReader) else None
            if old is None:
                raise RunError(f"{path}: no such file; this folder holds no {self._method} edits")
            path, settings, made_on, fingerprint, steps = old.path, old.settings, old.model, old.fingerprint, old.steps
        if self._store.history(model):
            raise RunError(
                f"{path}: the model carries {self._method} edits already; load these onto the unedited model"
            )
        if not steps:
            return
        _check_model(path, made_on, fingerprint, model)
        _check_settings(path, settings, self._store.shared_settings(hparams))
        self._store.attach(model, tok, self._store.join(steps, str(path)), str(path))
        if digest:
            history = self._store.history(model)
            self._written.setdefault(model, {})[folder] = _Written(len(history), history[-1], digest)

    def _write_index(self, model: Any, folder: Path, hparams: Mapping[str, Any] | None) -> None:
        part = {"method": self._method, "hparams": hparams}
        write_index(folder, STEPS_VERSION, {**description(model), "parts": [part]})
        if isinstance(self._store, OldStateReader):
            for path in (path for name in self._store.old_state_files for path in folder.glob(name)):
                path.unlink()


def _check_model(path: Path, made_on: str, fingerprint: str, model: Any) -> None:
    """Check that edits were made on this model.

    Args:
        path: the edits' index, for the message.
        made_on: name of the model that they were made on.
        fingerprint: of its unedited weights.
        model: the model that they are to be put on.

    Raises:
        RunError: its weights are others.
    """
    if fingerprint != model_fingerprint(model):
        raise RunError(
            f"{path}: was made on {made_on!r} with other weights than this {model_label(model)!r} has "
            "(the fingerprints differ). Load the same, unedited model."
        )


def _check_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that edits were made with these settings; those that an older folder does not name are not compared.

    Raises:
        RunError: one differs; the message says which.
    """
    for name, value in before.items():
        if now.get(name) != value:
            raise RunError(f"{path}: was made with {name}={value!r}; now it is {now.get(name)!r}")
