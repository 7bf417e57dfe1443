"""The commands of the command line that make, use and share saved edits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands.arguments import positive


def add_edits_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands that make, use and share saved edits."""
    edit = commands.add_parser("edit", parents=[common], help="edit a few facts, and save the edits in a folder")
    _add_edit_arguments(edit)
    edit.set_defaults(run=_edit, whole=True)

    generate = commands.add_parser("generate", parents=[common], help="let a model with saved edits continue prompts")
    _add_generate_arguments(generate)
    generate.set_defaults(run=_generate, whole=True)

    export = commands.add_parser(
        "export", parents=[common], help="put CoachHook's saved edits into a plain checkpoint, without hooks"
    )
    _add_saved_arguments(export)
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the model; new or empty")
    export.set_defaults(run=_export, whole=True)

    push = commands.add_parser("push", parents=[common], help="put saved edits on the Hugging Face Hub")
    _add_push_arguments(push)
    push.set_defaults(run=_push)

    pull = commands.add_parser("pull", parents=[common], help="fetch saved edits from the Hugging Face Hub")
    pull.add_argument("repo", metavar="OWNER/NAME", help="the repository (OWNER/NAME@REVISION will do, too)")
    pull.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the edits; new or empty")
    pull.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default: the main branch)")
    pull.set_defaults(run=_pull, whole=True)


def _add_edit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of editing a few facts into a folder."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add("--prompt", action="append", default=[], metavar="P", help="text that the new answer follows (repeatable)")
    add("--target", action="append", default=[], metavar="T", help="its new answer, one for each --prompt, in order")
    add("--subject", action="append", default=[], metavar="S", help="what it is about, as it stands in the prompt")
    add("--data", metavar="FILE", help="dataset file instead, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", help="of --data: zsre, counterfact, json, or another of `plugins` (default: as the file looks)")
    add("--limit", type=positive, metavar="N", help="only the first N records of --data")
    add("--edits", metavar="DIR", help="saved edits to begin with (or hub:OWNER/NAME[@REVISION])")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the edits; may be that of --edits")
    add("--model", help="model name or folder, instead of the hyperparameter file's")
    add("--device", help="device, instead of the hyperparameter file's")


def _add_saved_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which saved edits are meant, and the model that they go onto."""
    add = parser.add_argument
    add("--edits", required=True, metavar="DIR", help="saved edits: a folder, or hub:OWNER/NAME[@REVISION]")
    add("--model", help="model name or folder (default: as the edits name it)")
    add(
        "--dtype", choices=("float32", "bfloat16", "float16", "auto"), help="of its weights (default: as for the edits)"
    )
    add("--device", help="where the model goes (default: the best there is)")


def _add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of asking an edited model."""
    _add_saved_arguments(parser)
    add = parser.add_argument
    add("--prompt", action="append", required=True, metavar="P", help="text to continue (repeatable)")
    add("--compare", action="store_true", help="show what the unedited model says, too")
    add("--max-new-tokens", type=positive, default=20, metavar="N", help="how many tokens at most (default 20)")
    add("--temperature", type=_between(0, None), metavar="T", help="sample the text (default: greedy)")
    add(
        "--top-p",
        type=_between(0, 1),
        metavar="P",
        help="sample from the most probable tokens of this much probability",
    )
    add("--seed", type=int, default=0, help="of sampled text (default 0)")
    add("--json", action="store_true", help="print a JSON list")


def _add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of putting edits on the Hub."""
    add = parser.add_argument
    add("folder", metavar="DIR", help="saved edits")
    add("repo", metavar="OWNER/NAME", help="the repository; made if it isn't there")
    add("--public", action="store_true", help="make it public: everybody can read every edit (default: private)")
    add("--revision", metavar="BRANCH", help="branch; made if it isn't there (default: the main one)")
    add("--message", metavar="TEXT", help="commit message")


def _between(low: float, high: float | None) -> Callable[[str], float]:
    """Return what reads a number from ``low`` up to ``high``; None for no end."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not low <= number <= (sys.float_info.max if high is None else high):
            span = f"from {low:g} on" if high is None else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {span}")
        return number

    return read


def _edit(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.edit import Facts, edit_session

    facts = Facts(
        arguments.prompt, arguments.target, arguments.subject, arguments.data, arguments.format, arguments.limit
    )  # fmt: skip
    edit_session(
        arguments.hparams, facts, arguments.out, edits=arguments.edits, model=arguments.model, device=arguments.device
    )  # fmt: skip
    return 0


def _saved(arguments: argparse.Namespace) -> Any:
    from easyedit_lifelong.commands.saved_edits import Saved

    return Saved.of(arguments.edits, arguments.model, arguments.device, arguments.dtype)


def _generate(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.generate import Asking, generate_session

    asking = Asking(
        arguments.prompt, arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed
    )  # fmt: skip
    generate_session(_saved(arguments), asking, compare=arguments.compare, as_json=arguments.json)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.share import export_session

    export_session(_saved(arguments), arguments.out)
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.share import push_session

    push_session(
        arguments.folder, arguments.repo, private=not arguments.public, revision=arguments.revision,
        message=arguments.message,
    )  # fmt: skip
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from easyedit_lifelong.commands.share import pull_session

    pull_session(arguments.repo, arguments.out, arguments.revision)
    return 0
