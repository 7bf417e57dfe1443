"""GRACE's edits in a folder: an index, and one small file per edit with the rows that the edit changed.

A file never changes and is written once, so N edits cost N small files however often they are saved, and
loading does them again in their order: keys, values, radii and labels bit by bit, and what undoes each. Every
file carries a digest of itself and of those before it, so that files of two histories, or a broken one, don't
pass for one. Nothing is pickled.

What whitens the queries, where anything does, is in a file of its own, written before the first edit that was found
with it; the digests of all edits build on its.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from easyedit_lifelong.atomic import replace_text, replacing
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.grace.codebook.arrays import NAMES
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Row
from easyedit_lifelong.methods.grace.codebook.key_space import KeySpace
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import SAME_SETTINGS, GraceEditor
from easyedit_lifelong.methods.grace.serialized import StoredEdit
from easyedit_lifelong.methods.grace.whitening_file import WHITENING, chained, load_whitening, save_whitening
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.state_files import check_model, check_settings, check_whole, read_index, writing
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import find_module

INDEX = "grace.json"
FORMAT_VERSION = 1

_CALLED = "GRACE edits"
_QUERY = "query"
_WHITENING = "whitening"
_PARTS: dict[str, type] = {"model": str, "fingerprint": str, "layer": str, "settings": dict, "replay": dict}


@dataclass(frozen=True)
class _Saved:
    """How far a folder is up to date.

    Attributes:
        count: how many of the edits are in it.
        last: the last of them.
        digest: of all of them, and of what their queries are whitened by.
        index: what its index says.
        beyond: whether there may be files of other edits behind these.
    """

    count: int = 0
    last: Change | None = None
    digest: str = ""
    index: str = ""
    beyond: bool = True


def save_state(model: Any, folder: Path) -> None:
    """Bring a folder up to the GRACE edits that a model carries; edits that are there aren't written again.

    Args:
        model: the model; without GRACE edits nothing is written.
        folder: where to; made if it isn't there.

    Raises:
        RunError: it can't be written, or the model carries GRACE edits on several layers.
    """
    editors = GraceEditor.all_of(model)
    if len(editors) > 1:
        raise RunError(
            f"{folder}: the model carries GRACE edits on {', '.join(editors)}; only one layer's can be saved"
        )
    for editor in editors.values():
        with writing(folder, "GRACE's edits"):
            folder.mkdir(parents=True, exist_ok=True)
            editor.saved[folder] = _bring_up(editor, folder, editor.saved.get(folder, _Saved()))


def _bring_up(editor: GraceEditor, folder: Path, saved: _Saved) -> _Saved:
    changes = editor.changes
    if saved.count and (saved.count > len(changes) or changes[saved.count - 1] is not saved.last):
        saved = _Saved()  # edits have been rolled back since
    known = json.loads(saved.index) if saved.index else {"fingerprint": model_fingerprint(editor.model)}
    fingerprint, whitening = known["fingerprint"], known.get(_WHITENING)
    if not saved.count:  # with the first edit comes what is whitened by, which stays as long as there are edits
        whitening = save_whitening(folder, editor.space.whitening)
    description = _description(editor, fingerprint, whitening)
    index = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    if index != saved.index:
        replace_text(folder / INDEX, index)
    digest = saved.digest if saved.count else _beginning(description)
    for number in range(saved.count + 1, len(changes) + 1):
        digest = _save_edit(_file(folder, number), editor, number, digest)
    if saved.beyond:
        for path in folder.glob("edit-*.safetensors"):
            if path.name > _file(folder, len(changes)).name:
                path.unlink()
        if whitening is None:
            (folder / WHITENING).unlink(missing_ok=True)
    return _Saved(len(changes), changes[-1] if changes else None, digest, index, beyond=False)


def load_state(
    model: Any,
    tokenizer: Any,
    hparams: GraceHyperParams,
    folder: Path,
    case_ids: Sequence[int | str] | None = None,
) -> None:
    """Put the edits of a folder on a model that carries none on that layer.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.
        folder: what was saved.
        case_ids: the requests whose edits count, in order: the folder's first ones. None: all of them.

    Raises:
        RunError: the folder can't be used, belongs to another model, doesn't hold these edits, or was made with other
            settings; the message names the file and says what differs.
        ModelError: the model has no such layer.
    """
    path = folder / INDEX
    text, index = read_index(path, "GRACE", FORMAT_VERSION, _CALLED)
    check_whole(path, index, _PARTS, _CALLED)
    _check_belongs(path, index, model, hparams)
    numbers = range(1, len(case_ids) + 1) if case_ids is not None else _numbers(folder)
    edits: list[StoredEdit] = []
    space, length = _load_space(path, index), 0
    digest = _beginning(index)
    for number in numbers:
        file = _file(folder, number)
        (record, rows, query), digest = _load_edit(file, digest)
        if case_ids is not None and record.case_id != case_ids[number - 1]:
            raise RunError(
                f"{file}: is the edit of case {record.case_id}, but edit {number} of the run's journal is that of "
                f"case {case_ids[number - 1]}. The state belongs to another run."
            )
        for at, _, _ in rows:
            if at > length:
                raise RunError(f"{file}: changes key {at} of {length}. The state in {folder} isn't whole.")
            length = max(length, at + 1)
        edits.append((record, rows, query))
    if not edits:
        return
    key, value, _ = edits[0][1][0][2]
    try:
        space.check(hparams, len(key), len(value))
    except ValueError as error:
        raise RunError(f"{path}: {error}. The state in {folder} isn't whole.") from error
    editor = GraceEditor.on(model, tokenizer, hparams)
    replay = index["replay"]
    editor.restore(edits, (replay.get("in_part"), replay.get("checked_length", 0)), space)
    editor.saved[folder] = _Saved(len(edits), editor.changes[-1], digest, text)


class GraceKeeper:
    """Saves and loads GRACE's edits for the loops."""

    def carries(self, model: Any) -> bool:
        """Tell whether a model carries GRACE edits, on any layer."""
        return bool(GraceEditor.all_of(model))

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Bring a folder up to the edits that a model carries; see :func:`save_state`."""
        save_state(model, folder)

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Put a folder's edits on an unedited model; see :func:`load_state`."""
        load_state(model, tok, hparams, folder, case_ids)


def _description(editor: GraceEditor, fingerprint: str, whitening: str | None) -> dict[str, Any]:
    in_part, checked_length = editor.replay_support
    description = {
        "format_version": FORMAT_VERSION,
        "method": "GRACE",
        "model": model_label(editor.model),
        "fingerprint": fingerprint,
        "layer": editor.path,
        "settings": {name: getattr(editor.hparams, name) for name in SAME_SETTINGS},
        "replay": {"in_part": in_part, "checked_length": checked_length},
    }
    if editor.hparams.by_subject:
        description |= {"gate_size": editor.space.gate_size, _WHITENING: whitening}
    return description


def _beginning(index: dict[str, Any]) -> str:
    """Return what the digest of a folder's first edit builds on."""
    return f"{index['gate_size']} {index.get(_WHITENING)}" if "gate_size" in index else ""


def _load_space(path: Path, index: dict[str, Any]) -> KeySpace:
    """Return what the keys of a folder's edits are compared in.

    Args:
        path: of the index.
        index: what it says; nothing of this, if edits aren't found by their subjects.
    """
    digest = index.get(_WHITENING)
    whitening = None if digest is None else load_whitening(path.parent, digest)
    try:
        return KeySpace(index.get("gate_size", 0), whitening)
    except ValueError as error:
        raise RunError(f"{path}: isn't the whole index of {_CALLED}; {error}") from error


def _file(folder: Path, number: int) -> Path:
    return folder / f"edit-{number:06d}.safetensors"


def _numbers(folder: Path) -> range:
    """Return the numbers of all edits in a folder; a gap shows when the missing one is loaded."""
    names = [path.stem.removeprefix("edit-") for path in folder.glob("edit-*.safetensors")]
    return range(1, max((int(name) for name in names if name.isdecimal()), default=0) + 1)


def _rows_after(editor: GraceEditor, number: int) -> list[Row]:
    """Return the rows that an edit changed, as they were right after it, whatever later edits did to them."""
    changes, codebook = editor.changes, editor.codebook
    assert codebook is not None
    change, later = changes[number - 1], changes[number:]
    grown = later[0].length if later else len(codebook)
    rows = []
    for at in [*([] if change.index is None else [change.index]), *range(change.length, grown)]:
        over = next((other for other in later if other.index == at), None)
        rows.append(codebook.row(at) if over is None else (at, over.label, over.row))
    return rows


def _save_edit(path: Path, editor: GraceEditor, number: int, before: str) -> str:
    """Write an edit's file; return the digest of it and all before it."""
    rows = _rows_after(editor, number)
    entry = {
        "edit": editor.records[number - 1].to_dict(),
        "rows": [at for at, _, _ in rows],
        "labels": [list(label) for _, label, _ in rows],
    }
    tensors = {
        name: torch.stack([row[part] for _, _, row in rows]).cpu().contiguous() for part, name in enumerate(NAMES)
    }
    query = editor.changes[number - 1].query
    if query is not None:
        tensors[_QUERY] = query.cpu().contiguous()
    text = json.dumps(entry, ensure_ascii=False)
    digest = chained(before, text, tensors)
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, {"edit": text, "digest": digest}))
    return digest


def _load_edit(path: Path, before: str) -> tuple[StoredEdit, str]:
    whole = f"The state in {path.parent} isn't whole."
    try:
        with safe_open(path, framework="pt") as file:
            text, digest = (file.metadata() or {})["edit"], file.metadata()["digest"]
            names = (*NAMES, *({_QUERY} & set(file.keys())))  # only where an edit added no key
            tensors = {name: file.get_tensor(name) for name in names}
        entry = json.loads(text)
        edit, at, labels = entry["edit"], entry["rows"], entry["labels"]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: can't be read: {error}. {whole}") from error
    if digest != chained(before, text, tensors):
        raise RunError(f"{path}: has been changed, or doesn't follow the edit before it. {whole}")
    rows = [
        (int(index), tuple(label), tuple(tensors[name][n] for name in NAMES))
        for n, (index, label) in enumerate(zip(at, labels, strict=True))
    ]
    return (EditRecord.from_dict(edit, path), rows, tensors.get(_QUERY)), digest


def _check_belongs(path: Path, index: dict[str, Any], model: Any, hparams: GraceHyperParams) -> None:
    layer, _ = find_module(model, hparams.inner_params[0])
    if layer in GraceEditor.all_of(model):
        raise RunError(f"{path}: {layer} carries GRACE edits already; load these onto the unedited model")
    check_model(path, index, model)
    if index["layer"] != layer:
        raise RunError(f"{path}: belongs to layer {index['layer']}; inner_params names {layer}")
    check_settings(path, index, hparams)
