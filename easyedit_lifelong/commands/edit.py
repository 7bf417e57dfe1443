"""``edit``: edit a model with a few facts, or with a file of them, and save the edits in a folder."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from easyedit_lifelong.commands.option_types import positive_int
from easyedit_lifelong.commands.run_options import DATA, add_model_arguments
from easyedit_lifelong.commands.run_session import load_for
from easyedit_lifelong.commands.saved_edits import Saved, amount_of
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits import load_edits, save_edits
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS
from easyedit_lifelong.edits.parts import check_not_a_state
from easyedit_lifelong.errors import DataError, PluginError, RunError
from easyedit_lifelong.evaluation.context_fit import check_fit
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.reporting.console_tables import answer_table, say
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.runs.checks import check_method
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams, replaced
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.runs.run_folder import check_free

_SHOWN, _TOKENS = 10, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the facts, the hyperparameters, and the folders of edits."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add("--prompt", action="append", default=[], metavar="P", help="text that the new answer follows (repeatable)")
    add("--target", action="append", default=[], metavar="T", help="its new answer, one for each --prompt, in order")
    add("--subject", action="append", default=[], metavar="S", help="what it is about, as it stands in the prompt")
    add(*DATA, metavar="FILE", help="dataset file instead, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", help="of --data: zsre, counterfact, json, or another of `plugins` (default: as the file looks)")
    add("--limit", "--sample", type=positive_int, metavar="N", help="only the first N records of --data")
    add("--edits", metavar="DIR", help="saved edits to begin with (or hub:OWNER/NAME[@REVISION])")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the edits; may be that of --edits")
    add_model_arguments(parser)
    parser.set_defaults(writes_at_end=True)


def run(arguments: argparse.Namespace) -> int:
    """Edit a model and save its edits; all facts are edited and saved, or none.

    Raises:
        LifelongError: an input cannot be used, or an edit failed.
    """
    console, out = Console(), arguments.out.expanduser()
    hparams = replaced(
        load_hparams(arguments.hparams),
        {"model_name": arguments.model, "device": arguments.device},
        {"model_name": "--model", "device": "--device"},
    )
    method = find_method(hparams)
    if method.edits is None:
        raise PluginError(f"{arguments.hparams}: the edits of method {method.name!r} can't be saved")
    saved = None if arguments.edits is None else Saved.of(arguments.edits)
    _check_out(out, saved)
    earlier = [] if saved is None else saved.edits
    requests = with_free_ids(_requests(arguments), [edit.get("case_id") for edit in earlier])
    there = f", added to {amount_of(len(earlier))} from {arguments.edits}" if saved is not None else ""
    say(console, f"{hparams.alg_name} on {hparams.model_name}: {amount_of(len(requests))}{there}")
    model, tokenizer = load_for(hparams)
    _check(method, model, tokenizer, hparams, requests, typed=arguments.data is None)
    if saved is not None and method.prepare is not None:
        load_edits(model, saved.folder, tokenizer)()  # edits of another model are refused before prepare takes long
    shown = [request.prompt for request in requests[:_SHOWN]]
    results: list[EditResult] = []
    with edit_progress(console, len(requests)) as progress:
        if method.prepare is not None:  # of the unedited model
            method.prepare(model, tokenizer, hparams, progress.prepared)
        if saved is not None:
            load_edits(model, saved.folder, tokenizer)
        before = scorer_for(model, tokenizer).generate(model, shown, _TOKENS)
        for start in range(0, len(requests), hparams.batch_size):
            batch = requests[start : start + hparams.batch_size]
            model, rollback = method.apply(model, tokenizer, batch, hparams)
            results += getattr(rollback, "results", None) or ()  # a method need not report them
            progress.edited(start + len(batch), {})
    after = scorer_for(model, tokenizer).generate(model, shown, _TOKENS)
    save_edits(model, out)
    _show(console, requests, before, after)
    learned = f"learned: {sum(result.learned for result in results)} of {len(results)}. " if results else ""
    say(
        console,
        f"\n{learned}{out}: {amount_of(len(earlier) + len(requests))} saved."
        f"\nAsk the edited model: easyedit-lifelong generate --edits {out} --prompt ... --compare",
    )
    return 0


def _requests(arguments: argparse.Namespace) -> list[EditRequest]:
    """Return the facts of the command line, or of the file that it names, as requests.

    Raises:
        DataError: they cannot be used, or do not go together.
    """
    prompts, targets, subjects = arguments.prompt, arguments.target, arguments.subject
    if arguments.data is not None:
        if prompts or targets or subjects:
            raise DataError("--data: a file has its own prompts, targets and subjects; give either it or --prompt")
        return read_requests(arguments.data, reader_of(arguments.data, arguments.format).read)[: arguments.limit]
    if not prompts:
        raise DataError("there is nothing to edit: give a --prompt with its --target, or --data FILE")
    for name, given in (("target", targets), ("subject", subjects)):
        if len(given) != len(prompts) and (given or name == "target"):
            raise DataError(f"--{name}: there are {len(given)} for {len(prompts)} --prompt; give each prompt one")
    facts = [
        {"prompt": prompt, "target_new": target, **({"subject": subjects[n]} if subjects else {})}
        for n, (prompt, target) in enumerate(zip(prompts, targets, strict=True))
    ]
    return [EditRequest.from_dict(fact, f"--prompt {fact['prompt']!r}", n) for n, fact in enumerate(facts)]


def with_free_ids(requests: Sequence[EditRequest], taken: Iterable[Any]) -> list[EditRequest]:
    """Return requests whose case ids no edit has: an id that is taken is replaced by the next whole number.

    Args:
        requests: the requests.
        taken: the case ids of earlier edits.
    """
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
    """Check that the folder can be written to, and holds no edits but those that the run begins with.

    Raises:
        RunError: it cannot, or it does.
    """
    check_free(out, files=())
    check_not_a_state(out)
    held = [name for name in (INDEX, TENSORS) if (out / name).exists()]
    own = saved is not None and saved.folder.resolve() == out.resolve()
    if held and not own:
        raise RunError(
            f"{out}: holds other edits ({', '.join(held)}), which won't be overwritten. Choose another folder with "
            f"--out; or, to add to them, say --edits {out} as well."
        )


def _check(
    method: EditMethod, model: Any, tokenizer: Any, hparams: Any, requests: Sequence[EditRequest], *, typed: bool
) -> None:
    """Check model and requests before anything is changed.

    Args:
        method: the method.
        model: the model.
        tokenizer: its tokenizer.
        hparams: the method's hyperparameters.
        requests: the requests.
        typed: whether they come from the command line: a message then names the option ``--subject``.

    Raises:
        DataError: a request cannot be edited.
        ModelError: the model cannot.
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
    """Print the answers to the first prompts before and after the edits."""
    rows = [
        (request.prompt, request.target_new, old, new)
        for request, old, new in zip(requests, before, after, strict=False)
    ]
    first = f" (the first {len(rows)})" if len(rows) < len(requests) else ""
    answer_table(
        console, rows, ("prompt", "edited to", "before", "after"), f"\nFree generation, before and after{first}:"
    )
