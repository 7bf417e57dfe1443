"""The command line: parses, calls, prints."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

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
        "demo", parents=[common], help="edit SmolLM2-135M with sample facts, and show the effect"
    )
    demo.add_argument("--edits", type=_positive, default=50, help="how many facts to edit (default 50)")
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


if __name__ == "__main__":
    sys.exit(main())
