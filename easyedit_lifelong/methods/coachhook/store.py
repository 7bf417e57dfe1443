"""CoachHook's state in a folder: one file per batch, and an index that says which of them count.

A batch's file never changes and is written once, however often the state is saved. The index is replaced in one
step after the files that it names are on disk. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from easyedit_lifelong.atomic import replace_text, replacing
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import SAME_SETTINGS, CoachHookEditor
from easyedit_lifelong.methods.coachhook.state import BatchUpdate, LayerUpdate
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.state_files import check_model, check_settings, check_whole, read_index, writing
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.versions import package_versions

INDEX = "coachhook.json"
FORMAT_VERSION = 1

_CALLED = "CoachHook edits"
_PARTS: dict[str, type] = {"model": str, "fingerprint": str, "settings": dict, "templates": list, "batches": list}
_BATCH_PARTS: dict[str, type] = {"file": str, "edits": list, "prompts": list, "alphas": dict, "ordinary": dict}


def save_state(model: Any, folder: Path) -> None:
    """Write a model's CoachHook batches; those that are there already aren't written again.

    Args:
        model: the model; without CoachHook edits an empty state is written.
        folder: where to; made if it isn't there.

    Raises:
        RunError: it can't be written.
    """
    editor = CoachHookEditor.of(model)
    batches = [] if editor is None else editor.state.batches
    index: dict[str, Any] = {"format_version": FORMAT_VERSION, "method": "CoachHook"}
    with writing(folder, "CoachHook's edits"):
        folder.mkdir(parents=True, exist_ok=True)
        if editor is not None:
            index |= _description(editor)
        for batch in batches:
            if not (folder / batch.file).is_file():
                _save_batch(folder / batch.file, batch)
        replace_text(folder / INDEX, _text(index, batches))
        named = {batch.file for batch in batches}
        for path in folder.glob("batch-*.safetensors"):
            if path.name not in named:  # rolled back since it was written
                path.unlink()


def load_state(
    model: Any,
    tokenizer: Any,
    hparams: CoachHookHyperParams,
    folder: Path,
    case_ids: Sequence[int | str] | None = None,
) -> None:
    """Put the batches of a folder on a model that carries none.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        hparams: CoachHook's hyperparameters.
        folder: what was saved.
        case_ids: the requests whose batches count, in order: the folder's first ones. None: all of them.

    Raises:
        RunError: the folder can't be used, belongs to another model, doesn't hold these requests, or was made with
            other settings; the message names the file and says what differs.
        ModelError: the model has no such layers.
    """
    path = folder / INDEX
    _, index = read_index(path, "CoachHook", FORMAT_VERSION, _CALLED)
    if index.get("batches") != []:
        check_whole(path, index, _PARTS, _CALLED)
        for entry in index["batches"]:
            check_whole(path, entry, _BATCH_PARTS, _CALLED)
    if CoachHookEditor.of(model) is not None:
        raise RunError(f"{path}: the model carries CoachHook edits already; load the state onto the unedited model")
    entries = _first_batches(index["batches"], case_ids, path)
    if not entries:
        return
    check_model(path, index, model)
    check_settings(path, index, hparams)
    batches = [_load_batch(folder, entry) for entry in entries]
    try:
        CoachHookEditor.on(model, tokenizer, hparams, templates=index["templates"]).restore(batches)
    except RuntimeError as error:  # tensors of other shapes, or an EditError
        raise RunError(f"{path}: can't be put on this model: {error}. The state in {folder} isn't whole.") from error


class CoachHookKeeper:
    """Saves and loads CoachHook's state for the loops."""

    def carries(self, model: Any) -> bool:
        """Tell whether a model carries CoachHook edits."""
        return CoachHookEditor.of(model) is not None

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Write the edits that a model carries; see :func:`save_state`."""
        save_state(model, folder)

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Put a folder's edits on an unedited model; see :func:`load_state`."""
        load_state(model, tok, hparams, folder, case_ids)


def _first_batches(
    entries: list[dict[str, Any]], case_ids: Sequence[int | str] | None, path: Path
) -> list[dict[str, Any]]:
    """Return the entries of the batches that hold these requests and no others."""
    if case_ids is None:
        return entries
    found: list[int | str] = []
    for number, entry in enumerate(entries):
        if len(found) >= len(case_ids):
            entries = entries[:number]
            break
        found += [record.case_id for record in _records(entry, path)]
    if found != list(case_ids):
        raise RunError(
            f"{path}: doesn't hold the edits that the run's journal lists ({len(found)} against {len(case_ids)}, or "
            "others). The state belongs to another run."
        )
    return entries


def _records(entry: dict[str, Any], path: Path) -> tuple[EditRecord, ...]:
    return tuple(EditRecord.from_dict(one, path) for one in entry["edits"])


def _description(editor: CoachHookEditor) -> dict[str, Any]:
    state = editor.state
    return {
        "model": model_label(editor.model),
        "fingerprint": state.fingerprint,
        "settings": {name: getattr(editor.hparams, name) for name in SAME_SETTINGS},
        "paths": state.paths,
        "templates": state.templates,
        "versions": package_versions(),
    }


def _text(index: dict[str, Any], batches: Sequence[BatchUpdate]) -> str:
    """Return an index as JSON, with a line for every batch."""
    head = json.dumps({**index, "batches": []}, indent=1, ensure_ascii=False)
    return head.removesuffix("[]\n}") + "[\n" + ",\n".join(batch.line for batch in batches) + "\n ]\n}\n"


def _save_batch(path: Path, batch: BatchUpdate) -> None:
    tensors = {
        f"{layer}.{field.name}": getattr(update, field.name).contiguous()
        for layer, update in batch.layers.items()
        for field in dataclasses.fields(LayerUpdate)
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def _load_batch(folder: Path, entry: dict[str, Any]) -> BatchUpdate:
    path = folder / entry["file"]
    fields = [field.name for field in dataclasses.fields(LayerUpdate)]
    try:
        with safe_open(path, framework="pt") as file:
            layers = {
                layer: LayerUpdate(*(file.get_tensor(f"{layer}.{name}") for name in fields))
                for layer in entry["alphas"]
            }
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{path}: can't be read: {error}. The state in {folder} isn't whole.") from error
    name = path.name.removeprefix("batch-").removesuffix(".safetensors")
    prompts = tuple(tuple(prompt) for prompt in entry["prompts"])
    return BatchUpdate(_records(entry, folder / INDEX), layers, entry["alphas"], entry["ordinary"], prompts, name)
