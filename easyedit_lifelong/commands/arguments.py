"""The options of the longer commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_lifelong_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the lifelong loop."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add("--data", required=True, metavar="FILE", help="dataset file, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", default="json", help="zsre, counterfact, json, or another of `plugins` (default json)")
    add("--edits", type=positive, metavar="N", help="only the first N records")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results; must not hold another run")
    add("--only-errors", action="store_true", help="edit only where the model is wrong")
    add("--model", help="model name or folder, instead of the hyperparameter file's")
    add("--device", help="device, instead of the hyperparameter file's")
    _add_run_arguments(parser, "edits", 50)


def _add_run_arguments(parser: argparse.ArgumentParser, unit: str, every: int) -> None:
    """Add what both loops take; dashes serve as well as underscores."""
    add = parser.add_argument
    add(
        "--eval-every", "--eval_every", type=positive, metavar="K",
        help=f"score all past edits every K {unit} (default {every}, or not if --eval-at is given)",
    )  # fmt: skip
    add(
        "--eval-at", "--eval_at", type=_counts, default=(), metavar="N,N,...",
        help="score them after so many edits, such as 1,10,100,1000",
    )  # fmt: skip
    add(
        "--eval-sample", "--eval_sample", type=positive, metavar="N",
        help="score a fixed random sample of N past edits where there are more",
    )  # fmt: skip
    add(
        "--edit-with", "--edit_with", type=positive, default=0, metavar="N",
        help="make N rephrasings of each fact edits of their own, and hold the others out",
    )  # fmt: skip
    add("--retention", metavar="FILE", help="held-out facts, such as a JSON list of {prompt, answer}")
    add("--text", metavar="FILE", help="held-out text, for its perplexity before and after")
    add("--task", choices=("qa", "classification", "generation"), help="what the data ask (default: as their format)")
    add("--resume", action="store_true", help="go on with the run in --out that was cut short")
    add("--track", action="append", default=[], metavar="NAME", help="also report to this tracker (repeatable)")


def add_covariance_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the collection of second moments."""
    add = parser.add_argument
    add("--model", metavar="M", help="model name or folder")
    add("--layers", metavar="L", help="layers, such as 13-17 or 3-7,9")
    add("--corpus", metavar="C", help="file, folder, dataset, wikipedia, wikitext, or self: sampled from the model")
    add("--tokens", type=positive, metavar="N", help="how many tokens (default 10 per dimension of the keys)")
    add("--samples", type=positive, metavar="N", help="how many documents instead, as MEMIT counts")
    add("--out", type=Path, metavar="DIR", help="folder of statistics (default: this package's cache)")
    add("--hparams", metavar="FILE", help="take what isn't given from this hyperparameter file")
    add("--dtype", choices=("float32", "float64"), help="of the stored sums (default float32)")
    add("--device", help="where the model goes")
    add("--seed", type=int, default=0, help="of the order of documents, or of the sampling (default 0)")
    add("--context", type=positive, metavar="N", help="longest row of tokens (default 512; the model's for --samples)")
    add("--easyedit-samples", type=positive, metavar="N", help="also store where EasyEdit seeks mom2_n_samples: N")
    add("--merge", type=Path, nargs="+", metavar="FILE", help="only merge these files into --out FILE.npz")


def _add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what CoachHook's own scripts take, under their names; dashes serve as well as underscores."""

    def add(name: str, **options: Any) -> None:
        parser.add_argument(*dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")), dest=name, **options)

    add("hparams", help="hyperparameter file or shipped name (default: the method's for the model)")
    add("model", help="model name or folder (default smollm2-135m, or the hyperparameter file's)")
    add("device", help="device, instead of the hyperparameter file's")
    add("ds_dir", type=Path, metavar="FILE", help="dataset file (default: sample facts)")
    add("format", help="zsre, counterfact, json, or a plugin's (default: as the file looks)")
    add("sample", type=positive, default=100, metavar="N", help="only the first N records (default 100)")
    add("bsz", type=positive, metavar="B", help="edits per batch")
    add("stats_dir", metavar="DIR", help="folder of second-moment statistics")
    add("mom2_update_weight", type=_above_zero, metavar="W", help="weight of the second moments")
    add("alpha_z", type=float, metavar="A", help="initial alpha: the score from which a hook acts")
    add("num_layers", type=positive, metavar="L", help="edit only the last L of the layers")
    add("wohk", type=int, choices=(0, 1), nargs="?", const=1, help="1: without hook layers")
    add("skip_unusable", action="store_true", help="leave out records that can't be edited, and list them")


def add_consecutive_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the consecutive-batch loop."""
    _add_method_arguments(parser)
    add = parser.add_argument
    add("--method", help="editing method, EasyEdit's MEMIT included (default CoachHook)")
    add(
        "--consecutive", type=int, choices=(0, 1), nargs="?", const=1, default=1,
        help="1: batch upon batch (default); 0: roll each batch back before the next (the authors' default)",
    )  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="folder for the results (default runs/consecutive/METHOD-MODEL-DATA)")
    _add_run_arguments(parser, "batches", 20)


def add_scope_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the scope study."""
    _add_method_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/scope"), metavar="DIR",
                        help="folder for the results (default runs/scope)")  # fmt: skip


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a look into a folder of edits."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder of edits")
    add("--nearly", type=_above_zero, default=1.25, metavar="X",
        help="list keys whose distance is up to X times the sum of their radii (default 1.25)")  # fmt: skip
    add("--limit", type=_count, default=50, metavar="N", help="show the last N edits (default 50; 0: all)")
    add("--json", action="store_true", help="print everything as JSON")


def add_rollback_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of taking edits out of a folder."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder of edits")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--case", action="append", default=[], metavar="ID", help="a GRACE edit's case (repeatable)")
    what.add_argument("--to-batch", type=_count, metavar="N", help="keep CoachHook's first N batches")
    add("--prompt", help="with --case: only the edit of this prompt, where several have the same id")
    add("--out", type=Path, metavar="DIR2", help="write what is left there (default: in place)")
    add("--json", action="store_true", help="print what was taken out as JSON")


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of joining folders of edits."""
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="DIR", help="folders of GRACE edits of the same model")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the merged edits; must not hold edits")
    add("--json", action="store_true", help="print what met what as JSON")


def _count(text: str) -> int:
    return 0 if text.strip() == "0" else positive(text)


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return number


def share(text: str) -> float:
    """Read a number greater than 0 and at most 1."""
    number = _above_zero(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: greater than 0, at most 1")
    return number


def positive(text: str) -> int:
    """Read a whole number greater than 0."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number greater than 0")
    return number


def _counts(text: str) -> tuple[int, ...]:
    return tuple(positive(part.strip()) for part in text.split(","))
