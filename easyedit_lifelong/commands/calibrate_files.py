"""The files of a calibration: settings and results (JSON, updated after every step), and the chosen values (YAML)."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import atomic_file
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.calibrator import Calibrator
from easyedit_lifelong.parsing import parse_json
from easyedit_lifelong.runs.setting_changes import setting_changes
from easyedit_lifelong.write_errors import translated_write_errors

SCHEMA_VERSION = 1
RESULT, HPARAMS, TABLES, PLOT = "calibration.json", "calibrated.yaml", "calibration.md", "calibration.png"
VECTOR_PLOT = "calibration.svg"
TRIALS, TRIAL_TABLE = "trials.jsonl", "trials.csv"
"""The files of a staged search alone: the trials, appended one by one, and a table of them."""

_LOCATIONS = ("model.", "data.")
"""Prefixes of the settings that may differ when a calibration is resumed: digests of weights and records are
compared instead."""


def read_steps(out: Path, calibrator: Calibrator, settings: Mapping[str, Any] | None) -> Any:
    """Return the finished steps of an interrupted calibration.

    Args:
        out: the calibration's folder.
        calibrator: the method's calibrator.
        settings: the present settings and data, which must equal those of the interrupted calibration. None to check
            only that there is one.

    Raises:
        RunError: there is no calibration, it can't be read, or it has other settings or data.
    """
    file = out / RESULT
    if not file.is_file():
        raise RunError(f"{out}: holds no calibration to resume. To start one there, leave out --resume.")
    try:
        written = parse_json(file.read_text(encoding="utf-8"))
        version = written["schema_version"]
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{file}: was written by another version of this package (schema_version {version!r}, here "
                f"{SCHEMA_VERSION}). Start again in another folder, with --out."
            )
        recorded, steps = dict(written["asked"]), calibrator.steps(written["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file}: is damaged, or not a calibration's. Start again in another folder, with --out."
        ) from error
    changes = [] if settings is None else setting_changes(_given(recorded), _given(settings), _LOCATIONS)
    if changes:
        raise RunError(
            f"{out}: this calibration can't be resumed with other settings, data or weights: {'; '.join(changes)}. Use "
            "what it began with, or choose another folder with --out."
        )
    return steps


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that have a value, as JSON has them: files of older releases lack those without one."""
    return {name: value for name, value in json.loads(json.dumps(settings)).items() if value is not None}


def write_steps(out: Path, settings: Mapping[str, Any], steps: Any, results: Mapping[str, Any] | None = None) -> None:
    """Write the settings, the finished steps and, at the end, the results.

    Raises:
        RunError: the file can't be written.
    """
    content = {"schema_version": SCHEMA_VERSION, "asked": settings, "steps": dataclasses.asdict(steps)}
    write(out / RESULT, json.dumps({**content, **(results or {})}, indent=1, ensure_ascii=False) + "\n")


def hparams_text(
    values: Mapping[str, Any], chosen: Mapping[str, Any], comments: Mapping[str, str], heading: str
) -> str:
    """Return the text of a hyperparameter file in which the chosen values replace given ones.

    Args:
        values: the given values by name.
        chosen: the chosen values by name.
        comments: the comments to the chosen values, by name.
        heading: how the values were found; comment lines at the top of the file.
    """
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    for name, value in {**values, **chosen}.items():
        first_line, *other_lines = yaml.safe_dump({name: value}, allow_unicode=True, width=1000).splitlines()
        comment = f" # {comments[name]}" if name in chosen and name in comments else ""
        lines += [first_line + comment, *other_lines]
    return "\n".join(lines) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal names of columns as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(file: Path, content: str | bytes) -> None:
    """Write a file in one step, so that it is never half written.

    Raises:
        RunError: the file can't be written.
    """
    with translated_write_errors(file), atomic_file(file) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
