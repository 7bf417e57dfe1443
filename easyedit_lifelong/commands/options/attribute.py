"""The options of the command ``attribute``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import names, positive_float, positive_int
from easyedit_lifelong.locate.attribution_methods import METHODS

EXAMPLE = (
    'easyedit-lifelong attribute --model my-model --texts texts.txt --prompt "The capital of France is" --answer Paris'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="model name or folder, after it was trained on the texts")
    add("--texts", type=Path, required=True, metavar="FILE", help="a text in each line; or .json, .jsonl with a `text`")
    add("--prompt", required=True, help="the prompt")
    add("--answer", required=True, help="the answer to attribute to the texts")
    method_help = "products of gradients (tracin, default), or influence functions (ekfac, extra `attribution`)"
    add("--method", choices=METHODS, default="tracin", help=method_help)
    damping_help = "λ of --method ekfac (default: a tenth of the mean eigenvalue of each layer)"
    add("--damping", type=positive_float, metavar="X", help=damping_help)
    checkpoints_help = "further checkpoints; scores of --method tracin are averaged over all"
    add("--checkpoints", type=names, default=(), metavar="D,D", help=checkpoints_help)
    add("--layers", type=names, metavar="L,L", help="linear layers (default: the output projections of all MLPs)")
    add("--plain", action="store_true", help="products of gradients, not divided by their lengths")
    add("--top", type=positive_int, default=20, metavar="N", help="number of texts to print (default 20)")
    add("--out", type=Path, metavar="FILE", help="write the scores of all texts to this JSON file")
    add("--device", help="device of the model")
    add("--dtype", help="dtype of the model (default float32)")
