"""Options that several commands share, and the settings of a run that follow from them."""

from __future__ import annotations

import argparse

from easyedit_lifelong.commands.options.option_types import count, names, positive_int, positive_ints
from easyedit_lifelong.evaluation.tasks import TASKS
from easyedit_lifelong.runs.experiment import EVAL_EVERY

DATA = ("--data", "--ds-dir", "--ds_dir")
"""The option that names the data, and its aliases."""

FORMAT_HELP = "json, zsre or another that `plugins` lists, or a YAML file (default: recognised from the file)"
"""The help of the option ``--format`` of commands that recognise the format."""

RECORDS = ("--edits", "--sample", "--limit")
"""The option that limits the number of records, and its aliases."""


def spellings(name: str) -> tuple[str, ...]:
    """Return an option with dashes and with underscores. The scripts of CoachHook's authors have underscores."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add options that override the model and the device of a hyperparameter file."""
    parser.add_argument("--model", help="model name or folder (default: the hyperparameter file's)")
    parser.add_argument("--device", help="device (default: the hyperparameter file's)")


def add_seed_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that overrides the seed of a hyperparameter file."""
    parser.add_argument("--seed", type=count, metavar="N", help="seed (default: the hyperparameter file's)")


def add_joiner_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what stands between a prompt and its answer."""
    parser.add_argument(
        "--joiner",
        metavar="TEXT",
        help="text between prompt and answer, such as '' or ' ' (default: the hyperparameter file's, or by the texts)",
    )


def add_eos_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that ends every target with the end-of-text token."""
    what = "train the model to stop after each target, whatever the file says"
    parser.add_argument("--eos", action="store_true", default=None, help=what)


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of prompts in chat form."""
    parser.add_argument("--chat", action="store_true", help="ask every prompt as the user's turn of a chat")
    parser.add_argument("--system", metavar="TEXT", help="system message of --chat (default: the chat template's)")


def add_carry_over_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that scores edits in the form in which they were not made."""
    what = "also ask edits of plain prompts in a chat, and edits of a chat as plain prompts"
    parser.add_argument(*spellings("carry_over"), action="store_true", help=what)


def add_self_consistency_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that scores what the model writes after its answers."""
    what = "also score what the model writes after its answers: whether it contains the old answer"
    parser.add_argument(*spellings("self_consistency"), action="store_true", help=what)


def add_skip_argument(parser: argparse.ArgumentParser, unusable: str = "read or edited") -> None:
    """Add the option that leaves unusable records out.

    Args:
        parser: the command's parser.
        unusable: what can't be done with the records that the command leaves out.
    """
    what = f"leave out records that can't be {unusable}, and list them; without it, they stop the command"
    parser.add_argument(*spellings("skip_unusable"), action="store_true", help=what)


def add_loop_arguments(parser: argparse.ArgumentParser, loop: str, unit: str) -> None:
    """Add the options of both loops.

    Args:
        parser: the command's parser.
        loop: the name of the loop.
        unit: the unit of ``--eval-every``: edits or batches.
    """
    add = parser.add_argument
    add(
        *spellings("eval_every"),
        type=positive_int,
        metavar="K",
        help=f"score all past edits every K {unit} (default {EVAL_EVERY[loop]}; none if --eval-at is given)",
    )
    add(
        *spellings("eval_at"),
        type=positive_ints,
        default=(),
        metavar="N,N,...",
        help="score all past edits after these numbers of edits, such as 1,10,100,1000",
    )
    add_scoring_arguments(parser)
    add("--resume", action="store_true", help="continue the interrupted run in --out")
    add("--track", action="append", default=[], metavar="NAME", help="also log scores to this tracker (repeatable)")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which records are edited and what is scored."""
    add = parser.add_argument
    add("--offset", type=count, default=0, metavar="N", help="skip the first N records; --edits counts from there")
    add(
        "--shuffle",
        action="store_true",
        help="the seed of the hyperparameters draws the records, from all after --offset, and their order",
    )
    add(
        *spellings("eval_sample"),
        type=positive_int,
        metavar="N",
        help="if there are more than N past edits, score a fixed random sample of N",
    )
    add(
        *spellings("edit_with"),
        type=positive_int,
        default=0,
        metavar="N",
        help="also edit with N paraphrases of each fact; only its other paraphrases are scored",
    )
    add_text_arguments(parser)
    add_lm_eval_arguments(parser)
    add_chat_arguments(parser)
    add_carry_over_argument(parser)
    add_self_consistency_argument(parser)
    add_skip_argument(parser)


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what else is scored: held-out facts and text, capability, and the task of the data."""
    add = parser.add_argument
    add("--retention", metavar="FILE", help="held-out facts, such as a JSON list of {prompt, answer}")
    add("--text", metavar="FILE", help="held-out text; its perplexity is measured before and after")
    add(
        "--capability",
        nargs="?",
        const=True,
        metavar="FILE",
        help="multiple-choice questions, answered before and after (without FILE: 200 of this package)",
    )
    add("--judge", metavar="NAME", help="judge of generated answers: match, openai:MODEL, or a plugin's (`plugins`)")
    add("--task", choices=tuple(TASKS), help="task of the data (default: that of their format)")


def add_lm_eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of lm-evaluation-harness."""
    add = parser.add_argument
    add(
        *spellings("lm_eval"),
        type=names,
        default=(),
        metavar="TASK,...",
        help="tasks of lm-evaluation-harness, before and after",
    )
    add(*spellings("lm_eval_path"), metavar="DIR", help="folder with YAML files of further tasks for --lm-eval")
    add(
        *spellings("lm_eval_limit"),
        type=positive_int,
        metavar="N",
        help="use only N questions of each task of --lm-eval",
    )
