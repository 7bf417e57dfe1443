"""Hyperparameter files: where they are, and what they hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.errors import HyperParameterError, did_you_mean


def hparams_folders() -> list[Path]:
    """Return the folders of the hyperparameter files that come with this package."""
    here = Path(__file__).resolve().parent
    # An installed package has them inside; a checkout has them beside the package.
    return [folder for folder in (here / "hparams", here.parent / "hparams") if folder.is_dir()][:1]


def hparams_values(hparams: Any, model_name: str | None = None) -> dict[str, Any]:
    """Return hyperparameters as YAML can hold them; any other value, such as a loaded model, becomes its type's name.

    Args:
        hparams: of any method.
        model_name: a name for the model, in place of ``hparams.model_name``.
    """
    # The classes of EasyEdit's 2023 release can't say what they hold.
    values = hparams.to_dict() if hasattr(hparams, "to_dict") else dataclasses.asdict(hparams)
    if model_name is not None:
        values = {**values, "model_name": model_name}
    simple = (str, int, float, bool, type(None), list)
    return {name: value if isinstance(value, simple) else f"<{type(value).__name__}>" for name, value in values.items()}


def find_hparams(name_or_path: str | Path) -> Path:
    """Return the file that a name or path means.

    Raises:
        HyperParameterError: there is none; the message suggests the closest that there is.
    """
    path = Path(name_or_path).expanduser()
    if not path.name:
        raise HyperParameterError(f"{str(name_or_path)!r} names no hyperparameter file")
    candidates = [path] if path.suffix in {".yaml", ".yml", ".json"} else [path, path.with_name(path.name + ".yaml")]
    for base in [Path(), *hparams_folders()]:
        for candidate in candidates:
            if (base / candidate).is_file():
                return base / candidate
    shipped = [
        str(file.relative_to(folder).with_suffix(""))
        for folder in hparams_folders()
        for file in sorted(folder.rglob("*.yaml"))
    ]
    raise HyperParameterError(
        f"{name_or_path}: no such hyperparameter file.{did_you_mean(str(path.with_suffix('')), shipped)} "
        f"Shipped with this package: {', '.join(shipped) or 'none'}."
    )


def read_hparams_file(path: Path) -> dict[str, Any]:
    """Return a hyperparameter file's values by name.

    Raises:
        HyperParameterError: the file isn't YAML, or isn't a mapping.
    """
    return read_mapping(path, "hyperparameters as 'name: value' lines")


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Return what a YAML file maps names to.

    Args:
        path: the file.
        what: what it must hold, for messages.

    Raises:
        HyperParameterError: the file isn't YAML, or isn't a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HyperParameterError(f"{path}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or no date, as 2024-13-45
        raise HyperParameterError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise HyperParameterError(f"{path}: must hold {what}")
    return values
