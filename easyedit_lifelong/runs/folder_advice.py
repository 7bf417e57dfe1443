"""What messages about a run's folder advise: options of the run's own command, or the command of several runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FolderAdvice:
    """Sentences, and parts of sentences, with which messages about a run's folder end.

    Attributes:
        file: what to do about a file in place of the folder; completes "is a file".
        blocked: what to do if the folder can't be made or written to.
        occupied: what to do if it holds another run.
        interrupted: what may help, too, if that run was interrupted and can be resumed.
        other_settings: what to do if it holds this run with other settings.
        unusable: what to do if the run in it can't be resumed.
        resume: how to continue the run when the cause of an error is removed.
        begin_again: how to run again, when the cause is removed, a run that can't be continued.
    """

    file: str
    blocked: str
    occupied: str
    interrupted: str
    other_settings: str
    unusable: str
    resume: str
    begin_again: str

    def after_error(self, resumable: bool) -> str:
        """Return what to do when the run can be written to its folder again."""
        return f"Remove the cause, then {self.resume if resumable else self.begin_again}."


OWN_COMMAND = FolderAdvice(
    file="--out must name a folder",
    blocked="Choose another folder with --out.",
    occupied="Choose another folder with --out, or delete this one.",
    interrupted=" If it was cut short, --resume continues it.",
    other_settings="Choose what it began with, or another folder with --out.",
    unusable="Start a new run in another folder, with --out.",
    resume="continue the run with --resume",
    begin_again="begin again",
)
"""For a command that runs one run in the folder of its ``--out``."""

_DELETE = "delete this folder; the same command then begins this run again."

ONE_OF_SEVERAL = FolderAdvice(
    file="delete or rename it, and give the same command again",
    blocked="Remove the cause, then give the same command again.",
    occupied=_DELETE.capitalize(),
    interrupted="",
    other_settings=f"Choose what it began with, or {_DELETE}",
    unusable=_DELETE.capitalize(),
    resume="give the same command again, which continues this run",
    begin_again="delete this folder and give the same command again",
)
"""For a command with several runs, each in its own folder. The same command, given again, continues them."""
