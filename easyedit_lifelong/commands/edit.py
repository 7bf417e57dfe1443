"""The command ``edit``: edit a model with facts from the command line or a file, and save the edits in a folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.commands.saved_edits import SelectedEdits
from easyedit_lifelong.data.joiners import joiner_of, joiners_by_prompt, with_joiner
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits import load_edits, save_edits
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS, lock_edits
from easyedit_lifelong.edits.folder_parts import check_not_a_state
from easyedit_lifelong.errors import DataError, NotLearnedWarning, PluginError, RunError
from easyedit_lifelong.evaluation.chat_requests import ChatSettings, chat_settings, check_no_turns, in_chat_form
from easyedit_lifelong.evaluation.context_fit import check_fit
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.models.chat_form import check_can_chat
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.answer_texts import edited_answers_table
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.progress import EditProgress, edit_progress
from easyedit_lifelong.reporting.runnable_commands import runnable
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.checks import check_method
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams, replace_hparams
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.runs.run_folder import check_free

_SHOWN_PROMPTS, _NEW_TOKENS = 10, 8


def run(arguments: argparse.Namespace) -> int:
    """Edit the model with all facts and save the edits; if an edit fails, save nothing.

    Raises:
        LifelongError: an input can't be used, or an edit failed.
    """
    console, out = Console(), expanded_path(arguments.out, RunError)
    chat = chat_settings(arguments.chat, arguments.system)
    hparams = replace_hparams(
        load_hparams(arguments.hparams),
        {
            "model_name": arguments.model,
            "device": arguments.device,
            "joiner": arguments.joiner,
            "eos": arguments.eos,
        },
        {"model_name": "--model", "device": "--device", "joiner": "--joiner", "eos": "--eos"},
    )
    method = find_method(hparams)
    if method.edits is None:
        raise PluginError(f"{arguments.hparams}: the edits of method {method.name!r} can't be saved")
    saved = None if arguments.edits is None else expanded_path(arguments.edits, RunError)
    in_place = saved is not None and saved.resolve() == out.resolve()
    # Edits are read and then replaced, so no other process may change them until then.
    with lock_edits(out) if in_place and out.is_dir() else contextlib.nullcontext():
        return _edit_and_save(console, arguments, hparams, method, out, chat)


def _edit_and_save(
    console: Console,
    arguments: argparse.Namespace,
    hparams: Any,
    method: EditMethod,
    out: Path,
    chat: ChatSettings | None,
) -> int:
    """Edit the model, save the edits, and print the answers; see :func:`run`."""
    saved = None if arguments.edits is None else SelectedEdits.of(arguments.edits)
    _check_out(out, saved)
    earlier = [] if saved is None else saved.edits
    facts = with_joiner(_requests(arguments), joiner_of(hparams))
    requests = replace_used_ids(facts, [edit.get("case_id") for edit in earlier])
    added_to = f", added to {counted(len(earlier), 'edit')} from {arguments.edits}" if saved is not None else ""
    print_line(console, f"{hparams.alg_name} on {hparams.model_name}: {counted(len(requests), 'edit')}{added_to}")
    model, tokenizer = load_model_for(hparams)
    if chat is None:
        check_no_turns(requests)
    else:
        check_can_chat(model)
        requests = in_chat_form(requests, tokenizer, chat.system)
    _check(method, model, tokenizer, hparams, requests, typed=arguments.data is None)
    if saved is not None and method.prepare is not None:
        # Edits of another model are refused here, before the slow preparation, which needs the unedited model.
        rollback = load_edits(model, saved.folder, tokenizer)
        rollback()
    scorer, shown = scorer_for(model, tokenizer), requests[:_SHOWN_PROMPTS]
    prompts = [request.prompt for request in shown]
    # A target is shown to its end, and what the model makes of its end.
    limits = [max(_NEW_TOKENS, scorer.answer_tokens(request.prompt, request.target_new) + 1) for request in shown]
    with edit_progress(console, len(requests)) as progress:
        if method.prepare is not None:
            method.prepare(model, tokenizer, hparams, progress.prepared)
        if saved is not None:
            load_edits(model, saved.folder, tokenizer)
        before = scorer.generate(model, prompts, limits)
        model, results = _edit_batches(method, model, tokenizer, requests, hparams, progress)
    after = scorer.generate(model, prompts, limits)
    with lock_edits(out):
        _check_out(out, saved)  # again: another process may have written other edits meanwhile
        save_edits(model, out)
    _show(console, requests, before, after)
    learned = f"learned: {sum(result.learned for result in results)} of {len(results)}. " if results else ""
    form = "" if chat is None else " --chat"
    if chat is not None and chat.system is not None:
        form += f" --system {shlex.quote(chat.system)}"
    print_line(
        console,
        f"\n{learned}{out}: {counted(len(earlier) + len(requests), 'edit')} saved."
        f"\nAsk the edited model: {runnable('easyedit-lifelong generate')} --edits {shlex.quote(str(out))} "
        f"--prompt ... --compare{form}",
    )
    return 0


def _edit_batches(
    method: EditMethod,
    model: Any,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: Any,
    progress: EditProgress,
) -> tuple[Any, list[EditResult]]:
    """Edit the model with all requests; return the edited model, and the results of the edits if the method has any."""
    results: list[EditResult] = []
    for start in range(0, len(requests), hparams.batch_size):
        batch = requests[start : start + hparams.batch_size]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotLearnedWarning)  # the last line says how many were learned
            model, rollback = method.apply(model, tokenizer, batch, hparams)
        results += getattr(rollback, "results", None) or ()  # optional
        progress.edited(start + len(batch), {})
    return model, results


def _requests(arguments: argparse.Namespace) -> list[EditRequest]:
    """Return the facts of the command line, or of its file, as requests.

    Raises:
        DataError: a fact can't be used, or options contradict each other.
    """
    prompts, targets, subjects = arguments.prompt, arguments.target, arguments.subject
    if arguments.data is not None:
        if prompts or targets or subjects:
            raise DataError("--data: the file has prompts, targets and subjects; give either --data or --prompt")
        return read_requests(
            arguments.data,
            reader_of(arguments.data, arguments.format).read,
            skip_unusable=arguments.skip_unusable,
            limit=arguments.limit,
        )
    if not prompts:
        raise DataError("there is nothing to edit: give a --prompt with its --target, or --data FILE")
    for name, values in (("target", targets), ("subject", subjects)):
        if len(values) != len(prompts) and (values or name == "target"):
            raise DataError(f"--{name}: there are {len(values)} for {len(prompts)} --prompt; give each prompt one")
    facts = [
        {"prompt": prompt, "target_new": target, **({"subject": subjects[n]} if subjects else {})}
        for n, (prompt, target) in enumerate(zip(prompts, targets, strict=True))
    ]
    return [EditRequest.from_dict(fact, f"--prompt {fact['prompt']!r}", n) for n, fact in enumerate(facts)]


def replace_used_ids(requests: Sequence[EditRequest], taken: Iterable[Any]) -> list[EditRequest]:
    """Return the requests; replace each case id that an earlier edit has by the next unused whole number.

    Args:
        requests: the requests.
        taken: the case ids of earlier edits.
    """
    used_ids = set(taken)
    all_ids = [*used_ids, *(request.case_id for request in requests)]
    next_id = max((case_id for case_id in all_ids if isinstance(case_id, int)), default=-1) + 1
    result = []
    for request in requests:
        if request.case_id in used_ids:
            request = dataclasses.replace(request, case_id=next_id)
            next_id += 1
        result.append(request)
    return result


def _check_out(out: Path, saved: SelectedEdits | None) -> None:
    """Check that the folder is writable, and holds no edits except those of ``--edits``.

    Args:
        out: the folder for the edits.
        saved: the edits of ``--edits``, if given.

    Raises:
        RunError: the folder can't be used.
    """
    check_free(out, files=())
    check_not_a_state(out)
    existing = [name for name in (INDEX, TENSORS) if (out / name).exists()]
    is_added_to = saved is not None and saved.folder.resolve() == out.resolve()
    if existing and not is_added_to:
        raise RunError(
            f"{out}: holds other edits ({', '.join(existing)}), which won't be overwritten. Choose another folder with "
            f"--out; or, to add to these edits, also give --edits {out}."
        )


def _check(
    method: EditMethod, model: Any, tokenizer: Any, hparams: Any, requests: Sequence[EditRequest], *, typed: bool
) -> None:
    """Check the model and the requests before the model is changed.

    Args:
        method: the method.
        model: the model.
        tokenizer: its tokenizer.
        hparams: the method's hyperparameters.
        requests: the requests.
        typed: whether the facts are options of the command line, not of a file; a message then names the option
            ``--subject``.

    Raises:
        DataError: a request can't be edited.
        ModelError: the model can't be edited.
    """
    check_method(method, model, tokenizer, hparams)
    scorer = scorer_for(model, tokenizer, joiner_of(hparams))
    scorer.use_joiners(joiners_by_prompt(requests))
    check_fit(requests, scorer, model)
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
        (request.question, request.target_new, request.target_new, old, new)
        for request, old, new in zip(requests, before, after, strict=False)  # only the first requests have answers
    ]
    first = f" (the first {len(rows)})" if len(rows) < len(requests) else ""
    edited_answers_table(console, rows, f"\nFree generation, before and after{first}")
