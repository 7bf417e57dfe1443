"""The command line ``easyedit-lifelong``: run a command and report its errors.

A command is an entry of :data:`COMMANDS` and two modules of the same name (``new_method`` for ``new-method``). Its
module in :mod:`easyedit_lifelong.commands.options` has ``EXAMPLE``, a call that its ``--help`` shows, and
``add_arguments(parser)``; it imports nothing slow. Its module in :mod:`easyedit_lifelong.commands` has
``run(arguments)``, which returns the exit code. This module, which can import torch, is imported after the arguments
have been parsed. Of other commands, no module is imported.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

from easyedit_lifelong.commands.completion import PrintCompletion
from easyedit_lifelong.commands.interruption import interruption_text
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.reporting.runnable_commands import runnable
from easyedit_lifelong.reporting.terminal_text import (
    VisibleFormatter,
    VisibleParser,
    hide_progress_bars_outside_terminals,
    replace_unencodable,
    write_error,
)
from easyedit_lifelong.signals import Stopped, ignore_interrupts, interrupting_signals
from easyedit_lifelong.versions import __version__

COMMANDS = {
    "demo": "correct facts of SmolLM2-135M, explain, undo and save the edits, and compare three methods",
    "doctor": "check this installation and show how to repair it",
    "models": "list the models that come as Python packages, and convert their weights",
    "plugins": "list methods, dataset formats, trackers and judges",
    "lifelong": "edit a model with one fact after another, and score the edits",
    "covariance": "collect second moments of keys, for CoachHook, MEMIT, AlphaEdit and ROME",
    "consecutive": "edit a model with batches of facts, and score the edits (CoachHook's protocol)",
    "compare": "run several methods on the same records, and compare their scores and costs",
    "sweep": "run all combinations of methods, models, data and seeds, on one machine, Ray or Slurm",
    "run": "run an experiment file",
    "scope": "show at which tokens CoachHook's hooks act: z-scores of prompts and paraphrases",
    "calibrate": "choose layers, weights and radii of a method for a model, on held-out records",
    "train": "train a method (MEND, KE, ENN) for a model, so that it can edit",
    "rescore": "score the edits of a run again, with further data or metrics, without editing",
    "locate": "find where a model keeps facts, by causal tracing, and which layers to edit",
    "changes": "show at which tokens and layers saved edits change a model's states",
    "attribute": "rank texts by how much they support an answer of a model, by their gradients",
    "report": "write a page with figures and tables of one run, or a comparison of several",
    "edit": "edit a few facts, and save the edits in a folder",
    "serve": "answer over an OpenAI-compatible HTTP API, with edits that change while it runs",
    "generate": "continue prompts with a model that has saved edits",
    "export": "write a plain checkpoint with saved edits in its weights",
    "push": "upload saved edits to the Hugging Face Hub",
    "pull": "download saved edits from the Hugging Face Hub",
    "inspect": "show the contents of a folder of saved edits",
    "rollback": "remove edits from a folder of saved edits",
    "merge": "merge folders of edits made on the same model",
    "new-method": "make a plugin with an editing method, as a beginning for a method of yours",
}
"""The commands, each with its line in ``easyedit-lifelong --help``."""


EXIT_CODES = {
    0: "success",
    1: "an error: the standard error says what to do; or something failed, which compare, sweep and doctor list",
    2: "wrong usage",
    129: "the terminal was closed (SIGHUP)",
    130: "interrupted (Ctrl-C)",
    143: "terminated (SIGTERM)",
}
"""The exit codes of every command."""

_TEXTS = {
    *("prompt", "target", "subject", "answer", "joiner", "system", "case", "message"),
    *("api_key", "edit_key", "name", "judge"),
}
"""Arguments whose values are text, never paths."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default, those of this process.

    Returns:
        The exit code, one of :data:`EXIT_CODES`. Wrong usage does not return, but exits.
    """
    replace_unencodable()
    hide_progress_bars_outside_terminals()
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = argparse.Namespace(verbose=False, interrupted="interrupted; nothing was written")
    try:
        arguments = build_parser([word for word in words if word in COMMANDS][:1]).parse_args(words)
        _log_to_stderr(logging.DEBUG if arguments.verbose else logging.WARNING)
        _check_paths(arguments)
        with interrupting_signals():
            return arguments.run(arguments)
    except (LifelongError, OSError) as error:
        if arguments.verbose:
            traceback.print_exc()
        write_error(runnable(_message(error)))
        return 1
    except KeyboardInterrupt as interrupt:
        if argv is None:  # the process ends now; hasty further Ctrl-C would replace the message by a traceback
            ignore_interrupts()
        name, exit_code = (f"{interrupt}: ", interrupt.exit_code) if isinstance(interrupt, Stopped) else ("", 130)
        write_error(f"{name}{_interruption_text(arguments)}")
        return exit_code


def build_parser(verbs: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        verbs: the commands whose options are added; the others are only listed.
    """
    parser = VisibleParser(
        prog="easyedit-lifelong",
        description="Lifelong model editing, with EasyEdit.",
        epilog="exit codes:\n" + "\n".join(f"  {code:<5}{meaning}" for code, meaning in EXIT_CODES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        build=build_parser,
        metavar="SHELL",
        help="print a script with which a shell completes commands and options: bash, zsh, fish, tcsh, powershell",
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for verb, summary in COMMANDS.items():
        subparser = subparsers.add_parser(verb, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        subparser.add_argument("-v", "--verbose", action="store_true", help="show debug messages and tracebacks")
        if verb in verbs:
            options = importlib.import_module(f"easyedit_lifelong.commands.options.{_module_name(verb)}")
            subparser.description = f"{summary[0].upper()}{summary[1:]}."
            subparser.epilog = f"example:\n  {options.EXAMPLE}"
            options.add_arguments(subparser)
            subparser.set_defaults(run=functools.partial(_run, verb), verb=verb, interrupted=None)
    return parser


def _module_name(verb: str) -> str:
    """Return the name of the two modules of a command."""
    return verb.replace("-", "_")


def _run(verb: str, arguments: argparse.Namespace) -> int:
    """Import the module of a command, run the command, and return its exit code."""
    exit_code: int = importlib.import_module(f"easyedit_lifelong.commands.{_module_name(verb)}").run(arguments)
    return exit_code


def _interruption_text(arguments: argparse.Namespace) -> str:
    """Return what the command has set to be said when it is interrupted, or else what its kind of command says."""
    text: str = arguments.interrupted or interruption_text(arguments.verb, arguments)
    return text


def _log_to_stderr(level: int) -> None:
    """Write log messages of this level and above to the standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def _check_paths(arguments: argparse.Namespace) -> None:
    """Check that no path is in the home folder of an unknown user (``~nobody/x``) or holds a NUL character.

    Raises:
        RunError: a path is or does.
    """
    for name, value in vars(arguments).items():
        if name in _TEXTS:
            continue
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, (str, Path)):
                continue
            if "\0" in str(path):
                raise RunError(f"{name}: {path}: holds a NUL character, which no path can have")
            try:
                expanded_path(path, RunError)
            except RunError as error:
                raise RunError(f"{name}: {error}") from error


def _message(error: Exception) -> str:
    """Return an error's message; for an error of the operating system, the file and what is wrong with it."""
    if isinstance(error, LifelongError) or not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


if __name__ == "__main__":
    sys.exit(main())
