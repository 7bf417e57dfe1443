"""Edits on their way out, from the command line: into a plain checkpoint, to the Hub, and from there."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from easyedit_lifelong.commands.saved_edits import Saved, amount_of
from easyedit_lifelong.edits import export_model, load_edits, push_edits
from easyedit_lifelong.edits.edits_folder import check_empty
from easyedit_lifelong.edits.edits_hub import copy_edits
from easyedit_lifelong.reporting.console_tables import say


def export_session(saved: Saved, out: Path) -> None:
    """Put saved edits into the weights of their model, as a plain checkpoint.

    Raises:
        LifelongError: something asked for can't be had.
    """
    console = Console()
    check_empty(out)  # before minutes go into a model
    model, tokenizer = saved.base_model()
    load_edits(model, saved.folder, tokenizer)
    done = export_model(model, tokenizer, out)
    amounts = ", ".join(f"{method} {count}" for method, count in done.edits.items())
    say(console, f"{out}: {saved.made_on} with its edits in the weights ({amounts}).")
    for lost in done.lost:
        say(console, f"Lost: {lost}")
    say(console, f'Load it with AutoModelForCausalLM.from_pretrained("{out}"); this package isn\'t needed for it.')


def push_session(folder: str, repo_id: str, *, private: bool, revision: str | None, message: str | None) -> None:
    """Put saved edits on the Hugging Face Hub.

    Raises:
        LifelongError: something asked for can't be had.
    """
    address = push_edits(folder, repo_id, private=private, revision=revision, commit_message=message)
    console = Console()
    say(console, f"Pushed: {address}")
    say(console, f'Load them with load_edits(model, "hub:{repo_id.removeprefix("hub:")}")')


def pull_session(repo_id: str, out: Path, revision: str | None) -> None:
    """Fetch saved edits from the Hugging Face Hub into a folder.

    Raises:
        LifelongError: something asked for can't be had.
    """
    folder = copy_edits(repo_id, out, revision)
    saved = Saved.of(str(folder), None, None, None)
    say(Console(), f"{out}: {amount_of(len(saved.edits))} of {saved.made_on}, checked.")
