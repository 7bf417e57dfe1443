"""The command ``calibrate``: choose the hyperparameters that depend on the model."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from easyedit_lifelong.commands.calibrate_session import calibrate_session
from easyedit_lifelong.commands.options.calibrate import add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Run the calibration."""
    given = _given(arguments)
    words = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]
    calibrate_session(arguments, given.keys(), shlex.join(["easyedit-lifelong", "calibrate", *words]))
    return 0


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that do not have their default, by name."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    defaults = vars(parser.parse_args(["--data="]))
    return {name: getattr(arguments, name) for name, value in defaults.items() if getattr(arguments, name) != value}
