"""A calibration's files: what was asked and seen (JSON, up to date after every step), and what is picked (YAML)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import replace_text
from easyedit_lifelong.calibration.study import Calibration, Steps
from easyedit_lifelong.clock import now
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.versions import package_versions

SCHEMA_VERSION = 1
RESULT, HPARAMS, TABLES, PLOT = "calibration.json", "calibrated.yaml", "calibration.md", "calibration.png"

_COMMENTS = {
    "inner_params": "calibrated: subjects are found among the inputs of this layer",
    "dist_fn": "calibrated",
    "whiten": "calibrated",
    "eps": "calibrated: auto, from each key's own neighbourhood, or one radius for all keys",
    "false_fire_rate": "as asked for",
    "answer_layer": "calibrated: edits answer here, at a prompt's last token",
    "gate_eps": "calibrated: if that is as near to that of the edit's own prompt; null: always",
}


def read_steps(out: Path, asked: Mapping[str, Any] | None) -> Steps:
    """Return what a calibration that was cut short has found.

    Args:
        out: its folder.
        asked: what is asked now; it must be what was asked then. None to look only whether there is one.

    Raises:
        RunError: there is none, it can't be read, or something else was asked.
    """
    file = out / RESULT
    if not file.is_file():
        raise RunError(f"{out}: holds no calibration to resume. To begin one there, leave out --resume.")
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        version, then = written["schema_version"], dict(written["asked"])
        steps = Steps.from_dict(written["steps"]) if version == SCHEMA_VERSION else Steps()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file}: can't be read as a calibration's. Begin anew, in another folder, with --out."
        ) from error
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{file}: was written by another version of this package (schema_version {version!r}, this is "
            f"{SCHEMA_VERSION}). Begin anew, in another folder, with --out."
        )
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


def write_steps(out: Path, asked: Mapping[str, Any], steps: Steps, outcome: Mapping[str, Any] | None = None) -> None:
    """Write what has been found so far, and at the end what came of it.

    Raises:
        RunError: it can't be written.
    """
    written = {"schema_version": SCHEMA_VERSION, "asked": dict(asked), "steps": steps.to_dict(), **(outcome or {})}
    write(out / RESULT, json.dumps(written, indent=1, ensure_ascii=False) + "\n")


def outcome_of(calibration: Calibration) -> dict[str, Any]:
    """Return what came of a calibration, as its JSON file has it."""
    choice, counts = calibration.choice, calibration.counts
    return {
        "counts": vars(counts),
        "picked": choice.values(calibration.hparams.false_fire_rate),
        "scores": vars(choice.point),
        "versions": package_versions(),
        "finished": now(),
    }


def hparams_text(values: Mapping[str, Any], picked: Mapping[str, Any], found: str) -> str:
    """Return a hyperparameter file: a given one's values, with what was picked in place.

    Args:
        values: as the given file holds them.
        picked: by name.
        found: how that was found; several lines.
    """
    lines = [f"# {line}".rstrip() for line in found.splitlines()]
    for name, value in {**values, **picked}.items():
        first, *others = yaml.safe_dump({name: value}, allow_unicode=True, width=1000).splitlines()
        told = _COMMENTS.get(name) if name in picked else None
        lines += [f"{first} # {told}" if told else first, *others]
    return "\n".join(lines) + "\n"


def write(file: Path, text: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        RunError: it can't be written.
    """
    try:
        replace_text(file, text)
    except OSError as error:
        raise RunError(f"{file}: can't be written: {error.strerror}") from error
