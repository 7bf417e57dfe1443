"""The options of the command ``serve``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import count, positive_float, positive_int
from easyedit_lifelong.commands.options.run_options import add_model_arguments

EXAMPLE = "easyedit-lifelong serve --hparams GRACE/smollm2-135m --edits served-edits --port 8000"

API_KEY, EDIT_KEY = "EASYEDIT_LIFELONG_API_KEY", "EASYEDIT_LIFELONG_EDIT_KEY"

_KEY_HELP = "may be NAME=KEY; repeatable; the environment variable {} does the same without showing the key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add("--edits", required=True, type=Path, metavar="DIR", help="folder of the edits and their versions")
    add("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine only)")
    add("--port", type=count, default=8000, help="port to listen at (default 8000; 0: any free one)")
    add("--name", help="name of the model in requests (default: that of the model)")
    asks = "key that may ask; " + _KEY_HELP.format(API_KEY)
    add("--api-key", action="append", default=[], metavar="KEY", help=asks)
    edits = "key that may also edit; " + _KEY_HELP.format(EDIT_KEY)
    add("--edit-key", action="append", default=[], metavar="KEY", help=edits)
    add("--max-tokens", type=positive_int, default=1024, metavar="N", help="most new tokens of an answer (1024)")
    add(
        "--max-batch",
        type=positive_int,
        default=32,
        metavar="N",
        help="most answers that are generated at the same time (32)",
    )
    add("--max-waiting", type=positive_int, default=256, metavar="N", help="most requests that wait (256)")
    add("--max-body", type=positive_int, default=2**20, metavar="BYTES", help="largest body of a request (1 MiB)")
    add("--timeout", type=positive_float, default=120.0, metavar="S", help="seconds until a request fails (120)")
    add("--log-prompts", action="store_true", help="log prompts and answers; without it, none is logged")
    add_model_arguments(parser)
