"""The command line: find the verb, run its module, report errors.

A verb is an entry of :data:`VERBS` and a module of this package with ``add_arguments(parser)`` and ``run(arguments)``,
which returns the exit code. Only the module of the verb that is called is imported, because most of them need torch.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.versions import __version__

VERBS = {
    "demo": "edit SmolLM2-135M with sample facts, by GRACE and by CoachHook, side by side",
    "doctor": "check this installation and say how to mend it",
    "plugins": "list methods, dataset formats and trackers",
    "lifelong": "edit a model with a stream of facts, keeping score",
    "covariance": "collect second moments of keys, for CoachHook and MEMIT",
    "consecutive": "edit a model with batches of facts, keeping score (CoachHook's)",
    "run": "do the run that an experiment file describes",
    "scope": "study where CoachHook's hooks act: z-scores of prompts and paraphrases",
    "calibrate": "pick layers, distance, radius and gate of GRACE by subjects for a model",
    "report": "make a page with figures and tables of a run, or of several side by side",
    "edit": "edit a few facts, and save the edits in a folder",
    "generate": "let a model with saved edits continue prompts",
    "export": "put CoachHook's or MEMIT's saved edits into a plain checkpoint, without hooks",
    "push": "put saved edits on the Hugging Face Hub",
    "pull": "fetch saved edits from the Hugging Face Hub",
    "inspect": "show what a folder of saved edits holds",
    "rollback": "take edits out of a folder of saved edits",
    "merge": "join folders of GRACE edits made on the same model",
}
"""What each verb does, for ``easyedit-lifelong --help``."""


_TEXTS = {"prompt", "target", "subject", "case", "message"}
"""Arguments whose values are no paths."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = argparse.Namespace(verbose=False, writes_at_end=True)
    try:
        arguments = build_parser([word for word in words if word in VERBS][:1]).parse_args(words)
        logging.basicConfig(
            level=logging.DEBUG if arguments.verbose else logging.WARNING, format="%(levelname)s: %(message)s"
        )
        _check_homes(arguments)
        return arguments.run(arguments)
    except (LifelongError, OSError) as error:
        if arguments.verbose:
            traceback.print_exc()
        print(f"easyedit-lifelong: {_message(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        left = "nothing was written" if arguments.writes_at_end else "what was reported done is on disk"
        print(f"easyedit-lifelong: interrupted; {left}", file=sys.stderr)
        return 130


def build_parser(verbs: Collection[str] = VERBS) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        verbs: the verbs that get their arguments; the others are only listed, and their modules are not imported.
    """
    parser = argparse.ArgumentParser(prog="easyedit-lifelong", description="Lifelong model editing, with EasyEdit.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for verb, what in VERBS.items():
        subparser = subparsers.add_parser(verb, help=what)
        subparser.add_argument("-v", "--verbose", action="store_true", help="say more; show tracebacks")
        if verb in verbs:
            module = importlib.import_module(f"easyedit_lifelong.commands.{verb}")
            # A verb that writes everything at its end, in one step, sets writes_at_end.
            subparser.set_defaults(run=module.run, writes_at_end=False)
            module.add_arguments(subparser)
    return parser


def _check_homes(arguments: argparse.Namespace) -> None:
    """Refuse paths in the home folder of a user who does not exist (``~nobody/x``).

    Raises:
        RunError: an argument is such a path.
    """
    for name, value in vars(arguments).items():
        if name in _TEXTS:
            continue
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, (str, Path)) and str(path).startswith("~"):
                try:
                    Path(path).expanduser()
                except RuntimeError as error:
                    raise RunError(f"{name}: {path}: there is no such user here. Write the path in full.") from error


def _message(error: Exception) -> str:
    """Return an error's message; an error of the operating system says what is wrong with which file."""
    if isinstance(error, LifelongError) or not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


if __name__ == "__main__":
    sys.exit(main())
