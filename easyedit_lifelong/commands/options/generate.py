"""The options of the command ``generate``."""

from __future__ import annotations

import argparse

from easyedit_lifelong.commands.options.option_types import positive_int, probability, temperature, whole_number
from easyedit_lifelong.commands.options.run_options import add_chat_arguments
from easyedit_lifelong.commands.options.saved_edits_options import add_saved_arguments

EXAMPLE = 'easyedit-lifelong generate --edits my-edits --prompt "The capital of France is" --compare'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_saved_arguments(parser)
    add = parser.add_argument
    add("--prompt", action="append", required=True, metavar="P", help="text to continue (repeatable)")
    add_chat_arguments(parser)
    add("--compare", action="store_true", help="also show the text of the unedited model")
    add("--max-new-tokens", type=positive_int, default=20, metavar="N", help="most new tokens (default 20)")
    add("--temperature", type=temperature, metavar="T", help="sample the text with this temperature (default: greedy)")
    add("--top-p", type=probability, metavar="P", help="sample from the most probable tokens of total probability P")
    add("--seed", type=whole_number, default=0, help="seed of sampled text (default 0)")
    add("--json", action="store_true", help="print a JSON list")
