"""The command line: parses, calls, prints."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands import calibrate
from easyedit_lifelong.commands.arguments import (
    add_consecutive_arguments,
    add_covariance_arguments,
    add_inspect_arguments,
    add_lifelong_arguments,
    add_merge_arguments,
    add_rollback_arguments,
    add_scope_arguments,
    positive,
)
from easyedit_lifelong.commands.edits_commands import add_edits_commands
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.versions import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    try:
        _check_homes(arguments)
        return arguments.run(arguments)
    except (LifelongError, OSError) as error:
        if arguments.verbose:
            traceback.print_exc()
        print(f"easyedit-lifelong: {_told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        left = "nothing was written" if arguments.whole else "what was reported done is on disk"
        print(f"easyedit-lifelong: interrupted; {left}", file=sys.stderr)
        return 130


def _check_homes(arguments: argparse.Namespace) -> None:
    """Refuse folders and files of users who aren't there."""
    for name, value in vars(arguments).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, (str, Path)) and str(path).startswith("~"):
                try:
                    Path(path).expanduser()
                except RuntimeError as error:
                    raise RunError(f"{name}: {path}: there is no such user here. Write the path in full.") from error


def _told(error: Exception) -> str:
    """Return an error's message; the system's own errors say what is wrong with which file."""
    if isinstance(error, LifelongError) or not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(prog="easyedit-lifelong", description="Lifelong model editing, with EasyEdit.")
    parser.set_defaults(whole=False)  # whether what a command writes is written at its end, in one step
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="say more; show tracebacks")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", parents=[common], help="edit SmolLM2-135M with sample facts, by GRACE and by CoachHook, side by side"
    )
    demo.add_argument("--edits", type=positive, default=20, help="how many facts each edits (default 20)")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="where results go (default runs/demo)")
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser("doctor", parents=[common], help="check this installation and say how to mend it")
    doctor.set_defaults(run=_doctor)

    plugins = commands.add_parser("plugins", parents=[common], help="list methods, dataset formats and trackers")
    plugins.set_defaults(run=_plugins)

    lifelong = commands.add_parser(
        "lifelong", parents=[common], help="edit a model with a stream of facts, keeping score"
    )
    add_lifelong_arguments(lifelong)
    lifelong.set_defaults(run=_lifelong)

    covariance = commands.add_parser(
        "covariance", parents=[common], help="collect second moments of keys, for CoachHook and MEMIT"
    )
    add_covariance_arguments(covariance)
    covariance.set_defaults(run=_covariance)

    consecutive = commands.add_parser(
        "consecutive", parents=[common], help="edit a model with batches of facts, keeping score (CoachHook's)"
    )
    add_consecutive_arguments(consecutive)
    consecutive.set_defaults(run=_consecutive)

    run = commands.add_parser("run", parents=[common], help="do the run that an experiment file describes")
    run.add_argument("file", metavar="FILE", help="experiment file, config.yaml of a run, or a shipped name")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default runs/FILE)")
    run.add_argument("--resume", action="store_true", help="go on with the run there that was cut short")
    run.set_defaults(run=_run)

    scope = commands.add_parser(
        "scope", parents=[common], help="study where CoachHook's hooks act: z-scores of prompts and paraphrases"
    )
    add_scope_arguments(scope)
    scope.set_defaults(run=_scope)

    calibrating = commands.add_parser("calibrate", parents=[common], help=calibrate.HELP)
    calibrate.add_arguments(calibrating)
    calibrating.set_defaults(run=calibrate.run)

    report = commands.add_parser(
        "report", parents=[common], help="make a page with figures and tables of a run, or of several side by side"
    )
    report.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="a run's folder")
    report.add_argument("--out", type=Path, metavar="FILE_OR_DIR",
                        help="the page (.html) or its folder (default DIR/report or runs/comparison)")  # fmt: skip
    report.set_defaults(run=_report)
    add_edits_commands(commands, common)

    inspect = commands.add_parser("inspect", parents=[common], help="show what a folder of saved edits holds")
    add_inspect_arguments(inspect)
    inspect.set_defaults(run=_inspect)

    rollback = commands.add_parser("rollback", parents=[common], help="take edits out of a folder of saved edits")
    add_rollback_arguments(rollback)
    rollback.set_defaults(run=_rollback)

    merge = commands.add_parser("merge", parents=[common], help="join folders of GRACE edits made on the same model")
    add_merge_arguments(merge)
    merge.set_defaults(run=_merge)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.demo import run_demo

    run_demo(arguments.edits, arguments.out)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.doctor import examine, render

    findings = examine()
    render(findings)
    return 0 if all(finding.ok for finding in findings if finding.required) else 1


def _plugins(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.reporting.console_tables import plugin_table

    plugin_table()
    return 0


def _lifelong(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.run_session import session
    from easyedit_lifelong.runs.experiment import Data, Experiment

    experiment = Experiment(
        "lifelong", arguments.hparams,
        Data(arguments.data, arguments.format, arguments.edits, arguments.edit_with),
        overrides={"model_name": arguments.model, "device": arguments.device}, retention=arguments.retention,
        text=arguments.text, task=arguments.task, only_errors=arguments.only_errors,
        schedule=_schedule(arguments), trackers=arguments.track,
    )  # fmt: skip
    session(experiment, arguments.out, arguments.resume)
    return 0


def _schedule(arguments: argparse.Namespace) -> Any:
    from easyedit_lifelong.runs.schedule import Schedule

    return Schedule.of(arguments.eval_every, arguments.eval_at, arguments.eval_sample)


def _run(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.run_session import file_session

    file_session(arguments.file, arguments.out, arguments.resume)
    return 0


def _covariance(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.covariance import Options, covariance_session, merge_session

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
    from easyedit_lifelong.commands.consecutive import DATA, FIELDS, Options

    given = {option: getattr(arguments, option) for option in FIELDS}
    if given["wohk"] is not None:
        given["wohk"] = bool(given["wohk"])
    return Options(
        given=given, hparams=arguments.hparams, ds_dir=arguments.ds_dir or DATA, format=arguments.format,
        sample=arguments.sample, skip_unusable=arguments.skip_unusable, out=arguments.out, **more,
    )  # fmt: skip


def _consecutive(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.consecutive import consecutive_session

    options = _options(
        arguments, method=arguments.method, consecutive=bool(arguments.consecutive), schedule=_schedule(arguments),
        edit_with=arguments.edit_with, retention=arguments.retention, text=arguments.text, task=arguments.task,
        resume=arguments.resume, trackers=arguments.track,
    )  # fmt: skip
    consecutive_session(options)
    return 0


def _scope(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.scope import scope_session

    scope_session(_options(arguments))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.report import report_session

    report_session(arguments.folders, arguments.out)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.edits import inspect_session

    inspect_session(arguments.folder, nearly=arguments.nearly, limit=arguments.limit, as_json=arguments.json)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.edits import rollback_session

    rollback_session(
        arguments.folder, cases=arguments.case, prompt=arguments.prompt, batch=arguments.to_batch, out=arguments.out,
        as_json=arguments.json,
    )  # fmt: skip
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.edits import merge_session

    merge_session(arguments.folders, arguments.out, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
