"""Editing a model from the command line: a few facts, or a file of them, into a folder of edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from easyedit_lifelong.commands.run_session import load_for, reader_of
from easyedit_lifelong.commands.saved_edits import Saved, amount_of
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits import load_edits, save_edits
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS
from easyedit_lifelong.errors import DataError, PluginError, RunError
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.reporting.console_tables import answer_table, say
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.runs.checks import check_fit, check_method, find_method
from easyedit_lifelong.runs.hyperparameter_files import load_hparams, replaced
from easyedit_lifelong.runs.run_folder import check_free

_SHOWN, _TOKENS = 10, 8


@dataclass(frozen=True)
class Facts:
    """What shall be edited: facts in step, or a file.

    Attributes:
        prompts: of the facts that are written out.
        targets: their new answers, one for each prompt.
        subjects: what they are about: one for each prompt, or none.
        data: a dataset file instead, or ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.
        format: its format; None for what it looks like.
        limit: only its first records.
    """

    prompts: Sequence[str] = ()
    targets: Sequence[str] = ()
    subjects: Sequence[str] = ()
    data: str | None = None
    format: str | None = None
    limit: int | None = None

    def requests(self) -> list[EditRequest]:
        """Return the facts as requests.

        Raises:
            DataError: they can't be used, or don't go together.
        """
        if self.data is not None:
            if self.prompts or self.targets or self.subjects:
                raise DataError("--data: a file has its own prompts, targets and subjects; give either it or --prompt")
            return read_requests(self.data, reader_of(self.data, self.format).read)[: self.limit]
        if not self.prompts:
            raise DataError("there is nothing to edit: give a --prompt with its --target, or --data FILE")
        for name, given in (("target", self.targets), ("subject", self.subjects)):
            if len(given) != len(self.prompts) and (given or name == "target"):
                raise DataError(
                    f"--{name}: there are {len(given)} for {len(self.prompts)} --prompt; give each prompt one"
                )
        fields = [
            {"prompt": prompt, "target_new": target}
            for prompt, target in zip(self.prompts, self.targets, strict=True)
        ]  # fmt: skip
        if self.subjects:
            fields = [{**one, "subject": subject} for one, subject in zip(fields, self.subjects, strict=True)]
        return [EditRequest.from_dict(one, f"--prompt {one['prompt']!r}", n) for n, one in enumerate(fields)]


def edit_session(
    hparams_file: str, facts: Facts, out: Path, *, edits: str | None = None, model: str | None = None,
    device: str | None = None,
) -> list[EditResult]:  # fmt: skip
    """Edit a model and save its edits; all facts are edited and saved, or none.

    Args:
        hparams_file: hyperparameter file or shipped name; it says which method.
        facts: what to edit.
        out: the folder for the edits; it may hold others only if it is that of ``edits``.
        edits: saved edits to begin with.
        model: model instead of the file's.
        device: device instead of the file's.

    Returns:
        What was done per fact.

    Raises:
        LifelongError: something asked for can't be had.
    """
    console, out = Console(), out.expanduser()
    hparams = load_hparams(hparams_file)
    hparams = replaced(
        hparams, {"model_name": model, "device": device}, {"model_name": "--model", "device": "--device"}
    )  # fmt: skip
    method = find_method(hparams)
    if method.edits is None:
        raise PluginError(f"{hparams_file}: the edits of method {method.name!r} can't be saved")
    saved = None if edits is None else Saved.of(edits, None, None, None)
    _check_out(out, saved)
    earlier = [] if saved is None else saved.edits
    requests = with_free_ids(facts.requests(), [edit.get("case_id") for edit in earlier])
    there = f", upon {amount_of(len(earlier))} from {edits}" if saved is not None else ""
    say(console, f"{hparams.alg_name} on {hparams.model_name}: {amount_of(len(requests))}{there}")
    edited, tokenizer = load_for(hparams)
    _check(method, edited, tokenizer, hparams, requests, typed=facts.data is None)
    if saved is not None and method.prepare is not None:
        load_edits(edited, saved.folder, tokenizer)()  # whether they fit the model shows before anything takes long
    shown = [request.prompt for request in requests[:_SHOWN]]
    with edit_progress(console, len(requests)) as progress:
        if method.prepare is not None:  # of the unedited model
            method.prepare(edited, tokenizer, hparams, progress.prepared)
        if saved is not None:
            load_edits(edited, saved.folder, tokenizer)
        before = scorer_for(edited, tokenizer).generate(edited, shown, _TOKENS)
        results: list[EditResult] = []
        size = hparams.batch_size
        for start in range(0, len(requests), size):
            few = requests[start : start + size]
            edited, done = method.apply(edited, tokenizer, few, hparams)
            results += getattr(done, "results", None) or ()  # not every method tells
            progress.edited(start + len(few), {})
    after = scorer_for(edited, tokenizer).generate(edited, shown, _TOKENS)
    save_edits(edited, out)
    _show(console, requests, before, after)
    learned = f"learned: {sum(result.learned for result in results)} of {len(results)}. " if results else ""
    say(
        console,
        f"\n{learned}{out}: {amount_of(len(earlier) + len(requests))} saved."
        f"\nAsk the edited model: easyedit-lifelong generate --edits {out} --prompt ... --compare",
    )
    return results


def with_free_ids(requests: Sequence[EditRequest], taken: Iterable[Any]) -> list[EditRequest]:
    """Return requests with case ids that no edit has: those that are taken become the next whole numbers."""
    used = set(taken)
    numbers = [number for number in (*used, *(request.case_id for request in requests)) if isinstance(number, int)]
    free = max(numbers, default=-1) + 1
    renamed = []
    for request in requests:
        if request.case_id in used:
            request = dataclasses.replace(request, case_id=free)
            free += 1
        renamed.append(request)
    return renamed


def _check_out(out: Path, saved: Saved | None) -> None:
    """Check that the folder can be written, and holds no edits but those that are edited on.

    Raises:
        RunError: it can't, or does.
    """
    check_free(out, files=())
    held = [name for name in (INDEX, TENSORS) if (out / name).exists()]
    own = saved is not None and saved.folder.resolve() == out.resolve()
    if held and not own:
        raise RunError(
            f"{out}: holds other edits ({', '.join(held)}), which won't be overwritten. Choose another folder with "
            f"--out; or, to edit on upon them, say --edits {out} as well."
        )


def _check(
    method: EditMethod, model: Any, tokenizer: Any, hparams: Any, requests: Sequence[EditRequest], *, typed: bool
) -> None:
    """Check model and requests before anything is changed.

    Raises:
        DataError: a request can't be edited.
        ModelError: the model can't.
    """
    check_method(method, model, tokenizer, hparams)
    check_fit(requests, scorer_for(model, tokenizer), model)
    if method.check_requests is None:
        return
    for request in requests:
        try:
            method.check_requests(model, tokenizer, hparams, [request])
        except DataError as error:
            if typed and request.subject is None:
                raise DataError(f"{error} Give each --prompt its --subject.") from error
            raise


def _show(console: Console, requests: Sequence[EditRequest], before: Sequence[str], after: Sequence[str]) -> None:
    rows = [
        (request.prompt, request.target_new, then, now)
        for request, then, now in zip(requests, before, after, strict=False)  # the first ones
    ]  # fmt: skip
    few = f" (the first {len(rows)})" if len(rows) < len(requests) else ""
    answer_table(
        console, rows, ("prompt", "edited to", "before", "after"), f"\nFree generation, before and after{few}:"
    )
