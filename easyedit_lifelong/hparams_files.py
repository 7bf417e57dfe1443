"""Find and read hyperparameter files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.parsing import parse_yaml
from easyedit_lifelong.paths import expanded_path


def shipped_hparams_folders() -> list[Path]:
    """Return the folder of the hyperparameter files shipped with this package, in a list that is empty without one."""
    package = Path(__file__).resolve().parent
    # In an installed package, the files are inside it; in a checkout, they are beside it.
    return [folder for folder in (package / "hparams", package.parent / "hparams") if folder.is_dir()][:1]


def hparams_values(hparams: Any, model_name: str | None = None) -> dict[str, Any]:
    """Return hyperparameters as values that YAML can represent.

    Args:
        hparams: the hyperparameters of any method.
        model_name: a name for the model, in place of ``hparams.model_name``.

    Returns:
        The values by name. A value that YAML can't represent, such as a loaded model, is replaced by ``<type name>``.
    """
    # EasyEdit's 2023 release has no to_dict.
    values = hparams.to_dict() if hasattr(hparams, "to_dict") else dataclasses.asdict(hparams)
    if model_name is not None:
        values = {**values, "model_name": model_name}
    yaml_types = (str, int, float, bool, type(None), list)
    return {
        name: value if isinstance(value, yaml_types) else f"<{type(value).__name__}>" for name, value in values.items()
    }


def hparams_defaults(hparams: Any) -> dict[str, Any]:
    """Return the default values of the hyperparameters that have one and that :func:`hparams_values` returns, by name.

    Args:
        hparams: the hyperparameters of any method.
    """
    if not dataclasses.is_dataclass(hparams):
        return {}
    names, defaults = hparams_values(hparams).keys(), dict[str, Any]()
    for item in dataclasses.fields(hparams):
        if item.name in names and item.default is not dataclasses.MISSING:
            defaults[item.name] = item.default
        elif item.name in names and item.default_factory is not dataclasses.MISSING:
            defaults[item.name] = item.default_factory()
    return defaults


def find_hparams(name_or_path: str | Path) -> Path:
    """Return the hyperparameter file with a path, or with the name of a shipped file, such as ``GRACE/gpt2-xl``.

    The ending ``.yaml`` can be left out. A file in the current folder has precedence over a shipped one.

    Raises:
        HyperParameterError: there is no such file; the message suggests the shipped file with the closest name.
    """
    path = expanded_path(name_or_path, HyperParameterError)
    if not path.name:
        raise HyperParameterError(f"{str(name_or_path)!r} is not the name of a hyperparameter file")
    candidates = [path] if path.suffix in {".yaml", ".yml", ".json"} else [path, path.with_name(path.name + ".yaml")]
    for base in [Path(), *shipped_hparams_folders()]:
        for candidate in candidates:
            if (base / candidate).is_file():
                return base / candidate
    shipped = [
        str(file.relative_to(folder).with_suffix(""))
        for folder in shipped_hparams_folders()
        for file in sorted(folder.rglob("*.yaml"))
    ]
    folder = f"{path.parent}/"
    of_method = [name.removeprefix(folder) for name in shipped if name.startswith(folder)]
    if of_method:
        known = f"Shipped in {folder}: {', '.join(of_method)}."
    else:  # more than a hundred files
        folders = sorted({str(Path(name).parent) for name in shipped})
        known = f"Files are shipped in the folders {', '.join(folders)}." if folders else "No file is shipped."
    raise HyperParameterError(
        f"{name_or_path}: no such hyperparameter file.{did_you_mean(str(path.with_suffix('')), shipped)} {known}"
    )


def read_hparams_file(path: Path) -> dict[str, Any]:
    """Return the values of a hyperparameter file by name.

    Raises:
        HyperParameterError: the file isn't YAML, or isn't a mapping.
    """
    return read_mapping(path, "hyperparameters as 'name: value' lines")


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        what: the required content, for the error message.

    Raises:
        HyperParameterError: the file can't be read, isn't YAML, or isn't a mapping.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise HyperParameterError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:  # also: not UTF-8
        raise HyperParameterError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise HyperParameterError(f"{path}: must hold {what}")
    return values
