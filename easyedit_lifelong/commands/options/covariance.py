"""The options of the command ``covariance``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import positive_int, whole_number

EXAMPLE = "easyedit-lifelong covariance --model gpt2-xl --layers 13-17 --corpus wikipedia --samples 100000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command. An option that is not given is None, so that a hyperparameter file can set it."""
    add = parser.add_argument
    add("--model", metavar="M", help="model name or folder")
    add("--layers", metavar="L", help="layers, such as 13-17 or 3-7,9")
    add("--corpus", metavar="C", help="file, folder, dataset, wikipedia, wikitext, or self: sampled from the model")
    add("--tokens", type=positive_int, metavar="N", help="number of tokens (default 10 per dimension of the keys)")
    add("--samples", type=positive_int, metavar="N", help="number of documents instead of tokens, as in MEMIT")
    add("--out", type=Path, metavar="DIR", help="folder of statistics (default: this package's cache)")
    add("--hparams", metavar="FILE", help="hyperparameter file for all options that are not given")
    add("--dtype", choices=("float32", "float64"), help="data type of the stored sums (default float32)")
    add("--engine", metavar="E", help="native (default), or easyedit: EasyEdit's layer_stats")
    add("--device", help="device of the model")
    add("--seed", type=whole_number, default=0, help="seed of the order of documents, or of sampled text (default 0)")
    add(
        "--context",
        type=positive_int,
        metavar="N",
        help="longest row of tokens (default 512; for --samples, the model's)",
    )
    add(
        "--easyedit-samples",
        type=positive_int,
        metavar="N",
        help="also store a copy where EasyEdit looks for mom2_n_samples: N",
    )
    add("--merge", type=Path, nargs="+", metavar="FILE", help="only merge these files into --out FILE.npz")
