"""The command line: parses, calls, prints."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong import __version__
from easyedit_lifelong.errors import LifelongError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    try:
        return arguments.run(arguments)
    except LifelongError as error:
        if arguments.verbose:
            traceback.print_exc()
        print(f"easyedit-lifelong: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("easyedit-lifelong: interrupted; what was reported done is on disk", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(prog="easyedit-lifelong", description="Lifelong model editing, with EasyEdit.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="say more; show tracebacks")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", parents=[common], help="edit SmolLM2-135M with sample facts, by GRACE and by CoachHook, side by side"
    )
    demo.add_argument("--edits", type=_positive, default=20, help="how many facts each edits (default 20)")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="where results go (default runs/demo)")
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser("doctor", parents=[common], help="check this installation and say how to mend it")
    doctor.set_defaults(run=_doctor)

    plugins = commands.add_parser("plugins", parents=[common], help="list methods, dataset formats and trackers")
    plugins.set_defaults(run=_plugins)

    lifelong = commands.add_parser(
        "lifelong", parents=[common], help="edit a model with a stream of facts, keeping score"
    )
    _add_lifelong_arguments(lifelong)
    lifelong.set_defaults(run=_lifelong)

    covariance = commands.add_parser(
        "covariance", parents=[common], help="collect second moments of keys, for CoachHook and MEMIT"
    )
    _add_covariance_arguments(covariance)
    covariance.set_defaults(run=_covariance)

    consecutive = commands.add_parser(
        "consecutive", parents=[common], help="edit a model with batches of facts, keeping score (CoachHook's)"
    )
    _add_consecutive_arguments(consecutive)
    consecutive.set_defaults(run=_consecutive)

    scope = commands.add_parser(
        "scope", parents=[common], help="study where CoachHook's hooks act: z-scores of prompts and paraphrases"
    )
    _add_scope_arguments(scope)
    scope.set_defaults(run=_scope)
    return parser


def _add_lifelong_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add("--data", required=True, type=Path, help="dataset file")
    add("--format", default="json", help="zsre, counterfact, json, or a plugin's (default json)")
    add("--edits", type=_positive, metavar="N", help="only the first N records")
    add("--eval-every", type=_positive, default=50, metavar="K", help="score all past edits every K edits (default 50)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results; must not hold another run")
    add("--only-errors", action="store_true", help="edit only where the model is wrong")
    add("--retention", type=Path, metavar="FILE", help="held-out facts, JSON list of {prompt, answer}")
    add("--model", help="model name or folder, instead of the hyperparameter file's")
    add("--device", help="device, instead of the hyperparameter file's")
    add("--track", action="append", default=[], metavar="NAME", help="also report to this tracker (repeatable)")


def _add_covariance_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="M", help="model name or folder")
    add("--layers", metavar="L", help="layers, such as 13-17 or 3-7,9")
    add("--corpus", metavar="C", help="file, folder, dataset, wikipedia, wikitext, or self: sampled from the model")
    add("--tokens", type=_positive, metavar="N", help="how many tokens (default 10 per dimension of the keys)")
    add("--samples", type=_positive, metavar="N", help="how many documents instead, as MEMIT counts")
    add("--out", type=Path, metavar="DIR", help="folder of statistics (default: this package's cache)")
    add("--hparams", metavar="FILE", help="take what isn't given from this hyperparameter file")
    add("--dtype", choices=("float32", "float64"), help="of the stored sums (default float32)")
    add("--device", help="where the model goes")
    add("--seed", type=int, default=0, help="of the order of documents, or of the sampling (default 0)")
    add("--context", type=_positive, metavar="N", help="longest row of tokens (default 512; the model's for --samples)")
    add("--easyedit-samples", type=_positive, metavar="N", help="also store where EasyEdit seeks mom2_n_samples: N")
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
    add("sample", type=_positive, default=100, metavar="N", help="only the first N records (default 100)")
    add("bsz", type=_positive, metavar="B", help="edits per batch")
    add("stats_dir", metavar="DIR", help="folder of second-moment statistics")
    add("mom2_update_weight", type=_above_zero, metavar="W", help="weight of the second moments")
    add("alpha_z", type=float, metavar="A", help="initial alpha: the z-score from which a hook acts")
    add("num_layers", type=_positive, metavar="L", help="edit only the last L of the layers")
    add("wohk", type=int, choices=(0, 1), nargs="?", const=1, help="1: without hook layers")
    add("skip_unusable", action="store_true", help="leave out records that can't be edited, and list them")


def _add_consecutive_arguments(parser: argparse.ArgumentParser) -> None:
    _add_method_arguments(parser)
    add = parser.add_argument
    add("--retention", type=Path, metavar="FILE", help="held-out facts, JSON list of {prompt, answer}")
    add("--method", help="editing method, EasyEdit's MEMIT included (default CoachHook)")
    add(
        "--consecutive", type=int, choices=(0, 1), nargs="?", const=1, default=1,
        help="1: batch upon batch (default); 0: roll each batch back before the next (the authors' default)",
    )  # fmt: skip
    add(
        "--eval-every", "--eval_every", type=_positive, metavar="K", help="score all edits every K batches (default 20)"
    )
    add("--out", type=Path, metavar="DIR", help="folder for the results (default runs/consecutive/METHOD-MODEL-DATA)")
    add("--resume", action="store_true", help="go on with the run in --out that was cut short")
    add("--track", action="append", default=[], metavar="NAME", help="also report to this tracker (repeatable)")


def _add_scope_arguments(parser: argparse.ArgumentParser) -> None:
    _add_method_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/scope"), metavar="DIR",
                        help="folder for the results (default runs/scope)")  # fmt: skip


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return number


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number greater than 0")
    return number


def _demo(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.demo import run_demo

    run_demo(arguments.edits, arguments.out)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.doctor import examine, render

    findings = examine()
    render(findings)
    return 0 if all(finding.ok for finding in findings if finding.required) else 1


def _plugins(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.tables import plugin_table

    plugin_table()
    return 0


def _lifelong(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.session import lifelong_session

    lifelong_session(
        hparams_file=arguments.hparams, data=arguments.data, data_format=arguments.format, edits=arguments.edits,
        eval_every=arguments.eval_every, out=arguments.out, only_errors=arguments.only_errors,
        retention=arguments.retention, model=arguments.model, device=arguments.device, trackers=arguments.track,
    )  # fmt: skip
    return 0


def _covariance(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.covariance import Options, covariance_session, merge_session

    if arguments.merge:
        merge_session(arguments.merge, arguments.out)
        return 0
    covariance_session(Options(
        model=arguments.model, layers=arguments.layers, corpus=arguments.corpus, tokens=arguments.tokens,
        samples=arguments.samples, out=arguments.out, hparams=arguments.hparams, dtype=arguments.dtype,
        device=arguments.device, seed=arguments.seed, context=arguments.context,
        easyedit_samples=arguments.easyedit_samples,
    ))  # fmt: skip
    return 0


def _options(arguments: argparse.Namespace, **more: Any) -> Any:
    """Return what the arguments shared by `consecutive` and `scope` say."""
    from easyedit_lifelong.reporting.consecutive import DATA, FIELDS, Options

    given = {option: getattr(arguments, option) for option in FIELDS}
    if given["wohk"] is not None:
        given["wohk"] = bool(given["wohk"])
    return Options(
        given=given, hparams=arguments.hparams, ds_dir=arguments.ds_dir or DATA, format=arguments.format,
        sample=arguments.sample, skip_unusable=arguments.skip_unusable, out=arguments.out, **more,
    )  # fmt: skip


def _consecutive(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.consecutive import consecutive_session

    options = _options(
        arguments, method=arguments.method, consecutive=bool(arguments.consecutive), eval_every=arguments.eval_every,
        retention=arguments.retention, resume=arguments.resume, trackers=arguments.track,
    )  # fmt: skip
    consecutive_session(options)
    return 0


def _scope(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.scope import scope_session

    scope_session(_options(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
