"""A calibration's files: settings and results (JSON, up to date after every step), and the chosen values (YAML)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import replacing
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.calibrator import Calibrator

SCHEMA_VERSION = 1
RESULT, HPARAMS, TABLES, PLOT = "calibration.json", "calibrated.yaml", "calibration.md", "calibration.png"


def read_steps(out: Path, calibrator: Calibrator, asked: Mapping[str, Any] | None) -> Any:
    """Return the finished steps of a calibration that was interrupted.

    Args:
        out: its folder.
        calibrator: the method's.
        asked: the present settings and data, which must be those of that calibration. None to check only that there
            is one.

    Raises:
        RunError: there is none, it cannot be read, or its settings or data were others.
    """
    file = out / RESULT
    if not file.is_file():
        raise RunError(f"{out}: holds no calibration to resume. To begin one there, leave out --resume.")
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        version = written["schema_version"]
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{file}: was written by another version of this package (schema_version {version!r}, this is "
                f"{SCHEMA_VERSION}). Begin anew, in another folder, with --out."
            )
        then, steps = dict(written["asked"]), calibrator.steps(written["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file}: can't be read as a calibration's. Begin anew, in another folder, with --out."
        ) from error
    current = then if asked is None else json.loads(json.dumps(asked))  # as JSON has it
    changes = [
        f"{name} was {then.get(name)!r}, is {current.get(name)!r}"
        for name in dict.fromkeys([*then, *current])
        if then.get(name) != current.get(name)
    ]
    if changes:
        raise RunError(
            f"{out}: this calibration can't be resumed with other settings: {'; '.join(changes)}. Choose what it began "
            "with, or another folder with --out."
        )
    return steps


def write_steps(out: Path, asked: Mapping[str, Any], steps: Any, results: Mapping[str, Any] | None = None) -> None:
    """Write the finished steps and, at the end, the results.

    Raises:
        RunError: they cannot be written.
    """
    written = {"schema_version": SCHEMA_VERSION, "asked": asked, "steps": dataclasses.asdict(steps), **(results or {})}
    write(out / RESULT, json.dumps(written, indent=1, ensure_ascii=False) + "\n")


def hparams_text(
    values: Mapping[str, Any], chosen: Mapping[str, Any], comments: Mapping[str, str], heading: str
) -> str:
    """Return a hyperparameter file: a given one's values, with the chosen values in place.

    Args:
        values: as the given file holds them.
        chosen: the chosen values, by name.
        comments: what the file says about a chosen value, by name.
        heading: how the values were found; several lines.
    """
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    for name, value in {**values, **chosen}.items():
        first, *others = yaml.safe_dump({name: value}, allow_unicode=True, width=1000).splitlines()
        comment = f" # {comments[name]}" if name in chosen and name in comments else ""
        lines += [first + comment, *others]
    return "\n".join(lines) + "\n"


def write(file: Path, content: str | bytes) -> None:
    """Write a file in one step: it has the whole content or is not touched.

    Raises:
        RunError: it cannot be written.
    """
    try:
        with replacing(file) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise RunError(f"{file}: can't be written: {error.strerror}") from error
