"""The artefact of a trained method: a folder with a JSON file that describes it, and a safetensors file.

The description names the tensors' file by its digest and is written after it. So the folder always has a complete
artefact, whenever the writing process is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from easyedit_lifelong.atomic import atomic_file, write_text_atomically
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.paths import expanded_path

SCHEMA_VERSION = 1
DESCRIPTION = "artefact.json"
_TENSORS = "artefact-{}.safetensors"


@dataclass(frozen=True)
class Artefact:
    """A trained artefact.

    Attributes:
        path: its description, for messages.
        model: the name of the model that it was trained for.
        fingerprint: the fingerprint of that model's weights.
        hparams: the hyperparameters of the training, by name.
        digest: the SHA-256 digest of the tensors' file.
        tensors: the tensors by name.
    """

    path: Path
    model: str
    fingerprint: str
    hparams: dict[str, Any]
    digest: str
    tensors: dict[str, Tensor]


def write_artefact(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write an artefact; replace the one in the folder.

    Args:
        folder: an existing folder.
        description: ``method``, ``model`` (``name`` and ``fingerprint``), ``hparams``, and anything else to record.
        tensors: the tensors by name.

    Raises:
        OSError: a file cannot be written.
    """
    content = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    name = _TENSORS.format(digest[:16])
    with atomic_file(folder / name) as temporary:
        temporary.write_bytes(content)
    entry = {"schema_version": SCHEMA_VERSION, **description, "tensors": {"file": name, "sha256": digest}}
    write_text_atomically(folder / DESCRIPTION, json.dumps(entry, indent=1, ensure_ascii=False) + "\n")
    for other in folder.glob(_TENSORS.format("*")):
        if other.name != name:
            other.unlink(missing_ok=True)


def read_artefact(folder: str | Path | None, method: str, setting: str) -> Artefact:
    """Read the artefact of a method, and check its digest.

    Args:
        folder: the folder; None: the hyperparameter names none.
        method: the name of the method.
        setting: the hyperparameter that names the folder, with its file, for messages.

    Raises:
        HyperParameterError: there is no artefact of the method there. The message names the command that makes one.
        RunError: the artefact is damaged, or has a newer format.
    """
    if folder is None:
        raise HyperParameterError(f"{setting}: names no folder. {train_advice(method, 'FOLDER')}")
    path = expanded_path(folder, HyperParameterError) / DESCRIPTION
    if not path.is_file():
        raise HyperParameterError(
            f"{setting}: {folder} is not a folder with a trained {method}. {train_advice(method, str(folder))}"
        )
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["schema_version"] != SCHEMA_VERSION:
            raise RunError(
                f"{path}: has the format version {entry['schema_version']!r}, and this package reads {SCHEMA_VERSION}"
            )
        if entry["method"] != method:
            raise HyperParameterError(f"{setting}: {folder} holds a trained {entry['method']}, not {method}")
        model, file, digest = entry["model"], entry["tensors"]["file"], entry["tensors"]["sha256"]
        content = (path.parent / Path(file).name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise RunError(f"{path.parent / file}: has been changed since it was written. Train again.")
        hparams = dict(entry["hparams"])
        return Artefact(path, model["name"], model["fingerprint"], hparams, digest, from_bytes(content))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, (HyperParameterError, RunError)):
            raise
        raise RunError(f"{path}: is incomplete or damaged ({error}). Train again.") from error


def train_advice(method: str, folder: str) -> str:
    """Return a sentence with the command that trains a method."""
    return f"Train one: easyedit-lifelong train --method {method} --hparams FILE --data FILE --out {folder}"
