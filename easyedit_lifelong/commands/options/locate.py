"""The options of the command ``locate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import count, names, positive_float, positive_int, whole_number
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.locate.restorations import KINDS, MODULES
from easyedit_lifelong.locate.trace_settings import NOISE_FACTOR
from easyedit_lifelong.number_ranges import parse_layers

EXAMPLE = "easyedit-lifelong locate --model gpt2-xl --data known_1000.json --limit 100 --suggest MEMIT-native"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--model", default="smollm2-135m", metavar="M", help="model name or folder (default smollm2-135m)")
    add("--data", metavar="FILE", help="facts: records with prompt, subject and attribute or ground_truth")
    add("--prompt", help="trace one fact: the prompt")
    add("--subject", help="trace one fact: the words of the prompt that name the entity")
    add("--answer", help="trace one fact: the answer")
    add("--out", type=Path, default=Path("runs/locate"), metavar="DIR", help="results (default runs/locate)")
    add("--limit", type=positive_int, default=100, metavar="N", help="stop after N traced facts (default 100)")
    add("--kinds", type=names, default=KINDS, metavar="K,K", help=f"what to restore (default {','.join(KINDS)})")
    add("--severed", type=names, default=MODULES, metavar="K,K", help="severed paths: mlp,attention (default), or none")
    add("--window", type=positive_int, default=10, metavar="N", help="blocks of a restored window (default 10)")
    add("--samples", type=positive_int, default=10, metavar="N", help="number of corrupted runs (default 10)")
    add("--noise", type=positive_float, metavar="X", help="standard deviation of the noise")
    factor_help = "noise in standard deviations of the embeddings of subjects (default 3)"
    add("--noise-factor", type=positive_float, default=NOISE_FACTOR, metavar="X", help=factor_help)
    add("--replace-subject", action="store_true", help="corrupt by the embeddings of other subjects, without noise")
    add("--any-answer", action="store_true", help="also trace facts that the model doesn't know")
    add("--seed", type=whole_number, default=1, metavar="N", help="seed of the noise (default 1, that of ROME's code)")
    add("--suggest", metavar="METHOD", help="write a hyperparameter file of this method for the model")
    add("--hparams-out", type=Path, metavar="FILE", help="the file of --suggest (default METHOD.yaml in --out)")
    _add_sweep_arguments(parser)
    add("--device", help="device of the model")
    add("--dtype", help="dtype of the model (default float32)")
    add("--resume", action="store_true", help="continue the interrupted tracing in --out")


def _add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the measured sweep."""
    add = parser.add_argument
    add("--sweep", metavar="FILE", help="hyperparameter file: edit facts at each layer with its method, and score them")
    add("--sweep-data", metavar="FILE", help="edit requests of the sweep, which should be scored nowhere else")
    add("--sweep-offset", type=count, default=0, metavar="N", help="skip the first N requests of --sweep-data")
    add("--sweep-edits", type=positive_int, default=24, metavar="N", help="number of requests (default 24)")
    add("--sweep-layers", type=_layers, metavar="L", help="layers, such as 0-10 or 3,5,7 (default all)")


def _layers(text: str) -> list[int]:
    """Convert a list of layers, such as ``3-7,9``."""
    try:
        return parse_layers(text)
    except CovarianceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
