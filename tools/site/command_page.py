"""The page of the command line, from the parsers of its commands."""

from __future__ import annotations

import argparse

from markdown_tables import code, plain, table

from easyedit_lifelong.commands.main import COMMANDS, build_parser

_INTRODUCTION = """# Commands and options

`sh run.sh COMMAND …` in a clone, or `easyedit-lifelong COMMAND …` where the package is installed. [The command
line](../command-line.md) describes what all commands share. This page is generated from the parsers.

"""


def command_page() -> str:
    """Return the page, in Markdown."""
    (subparsers,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    overview = table(["command", "what it does"], ([f"[{verb}](#{verb})", plain(COMMANDS[verb])] for verb in COMMANDS))
    return _INTRODUCTION + overview + "".join(command_section(verb, subparsers.choices[verb]) for verb in COMMANDS)


def command_section(verb: str, parser: argparse.ArgumentParser) -> str:
    """Return the section of a command: what it does, an example, its arguments.

    Args:
        verb: name of the command.
        parser: its parser.
    """
    section = f"\n## {verb}\n\n{plain(parser.description or '')}\n\n"
    if parser.epilog:
        section += f"```sh\n{parser.epilog.removeprefix('example:').strip()}\n```\n\n"
    actions = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    return section + table(["argument", "meaning"], (_argument_row(parser, action) for action in actions))


def _argument_row(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """Return the cells of an argument: its names and values, and its meaning."""
    formatter = parser._get_formatter()
    values = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    names = [f"{name} {values}".strip() for name in action.option_strings] or [values]
    meaning = plain(formatter._expand_help(action)) if action.help else ""
    if action.option_strings and action.required:
        meaning += " (required)"
    return [", ".join(map(code, names)), meaning]
