"""Read the folder of a run for a report.

The run can be unfinished, killed, or written by an older version. So only the folder must exist: a file that is missing
or can't be read adds a note to the report and is not an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.step_states import read_step_states
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.parsing import parse_json, parse_yaml
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report.run_entries import Entry, as_mapping
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.runs.run_folder import CONFIG, GENERATIONS, JOURNAL, STATE, SUMMARY
from easyedit_lifelong.runs.run_folder import METRICS_FILE as CURVE

_FILES = (CONFIG, JOURNAL, CURVE, SUMMARY)


def read_run(folder: Path) -> RunFiles:
    """Read the folder of a run.

    Raises:
        RunError: the folder doesn't exist, or holds no run.
    """
    folder = expanded_path(folder, RunError)
    if not folder.is_dir():
        raise RunError(f"{folder}: {'is a file, not the folder of a run' if folder.exists() else 'no such folder'}")
    if not any((folder / name).is_file() for name in _FILES):
        subfolders = sorted(path.parent for name in _FILES[:2] for path in folder.glob(f"*/{name}"))
        hint = f" Did you mean {' '.join(map(str, dict.fromkeys(subfolders)))}?" if subfolders else ""
        raise RunError(f"{folder}: holds no run (none of {', '.join(_FILES)}).{hint}")
    notes: list[str] = []
    config_text = _read_text(folder / CONFIG, notes)
    summary_text = _read_text(folder / SUMMARY, notes) if (folder / SUMMARY).is_file() else "{}"
    run = RunFiles(
        folder,
        config=_parse(config_text, parse_yaml, f"{CONFIG} isn't valid YAML.", notes),
        config_text=config_text,
        journal=[_merge_detail(entry) for entry in _read_lines(folder / JOURNAL, notes)],
        curve=_last_scorings(_read_lines(folder / CURVE, notes)),
        generations=_read_lines(folder / GENERATIONS, []),
        summary=_parse(summary_text, parse_json, f"{SUMMARY} isn't valid JSON.", notes),
        steps=_read_state_steps(folder / STATE, notes),
        notes=notes,
    )
    if not run.finished:
        done, total = len(run.journal), run.n_requests
        text = counted(done, "request") if total is None else f"{done} of {counted(total, 'request')}"
        notes.insert(0, f"This run isn't finished: its journal has {text}.")
    return run


def _read_text(path: Path, notes: list[str]) -> str:
    """Return the text of a file; if it can't be read, add a note and return empty text."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"There is no {path.name}.")
    except OSError as error:
        notes.append(f"{path.name} can't be read: {error.strerror}.")
    return ""


def _parse(text: str, parser: Callable[[str], Any], note: str, notes: list[str]) -> Entry:
    """Return the mapping that a text holds; if it can't be parsed, add a note and return an empty mapping."""
    try:
        return as_mapping(parser(text))
    except ValueError:
        notes.append(note)
        return {}


def _read_lines(path: Path, notes: list[str]) -> list[Entry]:
    """Return the entries of a JSON-lines file. Skip invalid lines, such as an incomplete last one, and add a note."""
    entries, broken = [], []
    for number, line in enumerate(_read_text(path, notes).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            entries.append(entry)
        else:
            broken.append(number)
    if broken:
        lines = f"line {broken[0]}" if len(broken) == 1 else f"{len(broken)} lines, the first of them line {broken[0]},"
        notes.append(f"{path.name}: {lines} can't be read and {'is' if len(broken) == 1 else 'are'} left out.")
    return entries


def _merge_detail(entry: Entry) -> Entry:
    """Return a journal entry with the method's fields at the top level; the first version had them in ``detail``."""
    return {**as_mapping(entry.get("detail")), **{key: value for key, value in entry.items() if key != "detail"}}


def _last_scorings(entries: list[Entry]) -> list[Entry]:
    """Return the last scoring at each number of edits; a resumed run can have two at the same number."""
    numbered = [entry for entry in entries if isinstance(entry.get("n_edits"), int) and is_number(entry["n_edits"])]
    by_edits = {entry["n_edits"]: entry for entry in numbered}
    return [by_edits[n] for n in sorted(by_edits)]


def _read_state_steps(state: Path, notes: list[str]) -> list[tuple[list[Entry], Entry]]:
    """Return, for each step of a run's state folder, the records of its edits and the method's state.

    A subfolder with more steps than the folder itself is read instead.
    """
    steps: list[tuple[list[Entry], Entry]] = []
    for folder in (state, *sorted(path for path in state.glob("*") if path.is_dir())):
        try:
            steps_in_folder = read_step_states(folder)
        except LifelongError as error:
            notes.append(f"The edits in {STATE}/ can't be read, so figures that need them aren't shown: {error}")
        else:
            steps = steps_in_folder if len(steps_in_folder) >= len(steps) else steps
    return steps
