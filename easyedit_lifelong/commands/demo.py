"""The command ``demo``: correct three facts of SmolLM2-135M, undo one, save the others, and compare three methods."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import subprocess  # nosec B404 # runs this package
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from easyedit_lifelong.commands.demo_folders import (
    DATA_NAME,
    check_previous_edits,
    check_previous_run,
    delete_folders,
)
from easyedit_lifelong.commands.demo_full import run_demo
from easyedit_lifelong.data.readers import read_counterfact, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.retention import read_retention
from easyedit_lifelong.data.samples import COUNTERFACT, RETENTION, TEXT
from easyedit_lifelong.edits import explain, rollback_case, save_edits
from easyedit_lifelong.edits.remove import remove_all_edits
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers
from easyedit_lifelong.models.load import load_model
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.demo_tables import comparison_table, other_facts_changed, related_prompts, show_facts
from easyedit_lifelong.reporting.progress import count_progress, edit_progress
from easyedit_lifelong.reporting.runnable_commands import runnable
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.execute import run_experiment
from easyedit_lifelong.runs.experiment import CONSECUTIVE, Experiment, Inputs
from easyedit_lifelong.runs.hyperparameter_files import load_hparams

FACTS = (46, 45, 62)
"""The case_ids of the sample facts that are corrected first. SmolLM2-135M knows them."""

BY_SUBJECT = "by subject"

_STATISTICS: Mapping[str, Any] = {"mom2_dataset": str(TEXT), "mom2_n_tokens": 2880}
"""Second moments of a short text. For the shipped files, the model generates 5,760 and 15,360 tokens, which takes most
of the time of a first edit."""

COMPARED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "GRACE": ("GRACE/smollm2-135m", {}),
    BY_SUBJECT: ("GRACE/smollm2-135m-subject", _STATISTICS),
    "CoachHook": (
        "CoachHook/smollm2-135m-codebook",
        {
            **_STATISTICS,
            # Fewer steps, to a larger loss (docs/research/coachhook-speed.md). The shipped file has 0.5, 0.1 and 50.
            "v_lr": 2.0,
            "v_stop_loss": 0.2,
            "v_num_grad_steps": 12,
            # Two texts for each edit, where the shipped file has eight.
            "mention_templates": ["{subject}: {prompt}"],
            "context_template_length_params": [],
        },
    ),
}
"""The hyperparameter files that are compared, each with other settings, by the name of their column and folder."""

_EXPLANATION = (
    "found: within the radius of a key of the edit; so its subject is named.",
    "gate: how much the question differs from the edited one, and the limit.",
    "replaced: here, the edit's value replaces a layer's output. The answer follows.",
)
"""What the words of :func:`.explain` mean for GRACE by subject."""

_BATCH_SIZE = 10
_HELD_OUT_STEP = 3
"""The comparison asks every third of the sample facts that are never edited, 20 of 60."""
_NEW_TOKENS = 8


def run(arguments: argparse.Namespace) -> int:
    """Run the demo.

    Raises:
        LifelongError: see :func:`run_short_demo` and :func:`.run_demo`.
    """
    transformers_logging.disable_progress_bar()  # of the weights
    if arguments.full:
        run_demo(arguments.edits, arguments.out)
    else:
        run_short_demo(arguments.edits, arguments.out)
    return 0


def run_short_demo(
    edits: int,
    out: Path,
    *,
    compared: Mapping[str, tuple[str, Mapping[str, Any]]] = COMPARED,
    data: Path = COUNTERFACT,
    facts: Sequence[int] = FACTS,
) -> None:
    """Correct three facts, undo one, save the others and ask a new process; then compare three methods.

    Args:
        edits: number of facts of the comparison, which are spread evenly over the data.
        out: folder for the results, which replace those of an earlier demo.
        compared: the methods, see :data:`COMPARED`; the one named :data:`BY_SUBJECT` also corrects the first facts.
        data: the facts, in CounterFact's format.
        facts: the case_ids of the facts that are corrected first.

    Raises:
        ModelError: SmolLM2 isn't installed.
        RunError: a folder holds files that aren't an earlier demo's.
        CovarianceError: stored second moments of the model can't be used.
    """
    console, began = Console(), time.monotonic()
    folders = {name: out / name.replace(" ", "-") for name in compared}
    for folder in folders.values():
        check_previous_run(folder)
    hparams = {name: dataclasses.replace(load_hparams(file), **settings) for name, (file, settings) in compared.items()}
    requests = read_requests(data, read_counterfact)
    first = [next(request for request in requests if request.case_id == case_id) for case_id in facts]
    check_previous_edits(out / "edits", first)
    model, tokenizer = load_model(hparams[BY_SUBJECT].model_name)
    correct_facts(console, model, tokenizer, first, hparams[BY_SUBJECT], out / "edits")
    delete_folders(*folders.values())
    compare_methods(console, model, tokenizer, spread_evenly(requests, edits), hparams, folders)
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print_line(
        console,
        f"\nDone in {minutes} min {seconds} s. Results are in {out}. Next:\n"
        f"  {runnable('easyedit-lifelong report')} {shlex.join(map(str, folders.values()))}\n"
        f"  {runnable('easyedit-lifelong generate')} --edits {shlex.quote(str(out / 'edits'))} --compare --prompt "
        "'...'\n"
        f"  {runnable('easyedit-lifelong edit')} --help",
    )


def spread_evenly(requests: Sequence[EditRequest], number: int) -> list[EditRequest]:
    """Return a number of requests at equal distances in a list, from its first on; all of them if there are fewer."""
    count = min(number, len(requests))
    return [requests[index * len(requests) // count] for index in range(count)]


def correct_facts(
    console: Console, model: Any, tokenizer: Any, facts: Sequence[EditRequest], hparams: Any, folder: Path
) -> None:
    """Ask about facts, correct them, ask again, explain an answer, undo one edit, and load the others in a new process.

    Args:
        console: the console.
        model: the unedited model. It is unedited again at the end.
        tokenizer: its tokenizer.
        facts: the facts, each with a paraphrase, another question about its subject, and one about another subject.
        hparams: hyperparameters of the method that corrects them.
        folder: folder for the saved edits; edits there are replaced.

    Raises:
        RunError: the new process failed.
    """
    console.rule("1. What the model says", align="left")
    before = _answers(model, tokenizer, facts)
    for fact, (answer, *_) in zip(facts, before, strict=True):
        print_line(console, f"{fact.prompt} ...\n    {answer}")

    console.print()
    console.rule("2. Correct three facts", align="left")
    method = get_plugins().methods.get(hparams.alg_name)
    if method.prepare is not None:
        print_line(console, "Statistics of the model are computed once and stored (half a minute).")
        with count_progress(console, "reading") as progress:
            method.prepare(model, tokenizer, hparams, progress)
    started = time.monotonic()
    method.apply(model, tokenizer, list(facts), hparams)
    print_line(
        console, f"{counted(len(facts), 'fact')} edited in {time.monotonic() - started:.1f} s. No weight has changed."
    )
    after = _answers(model, tokenizer, facts)
    show_facts(console, facts, before, after)
    if other_facts_changed(facts, before, after):
        print_line(
            console,
            "\nAn edit has also changed another fact about its subject. The setting gate_eps\n"
            "says how much a question may differ from the edited one (docs/grace-subject.md).",
        )

    console.print()
    console.rule("3. Why does it say so?", align="left")
    paraphrase = facts[0].rephrase_prompts[0]
    lines = str(explain(model, tokenizer, paraphrase)).splitlines()
    found = [line for line in lines[1:] if "found" in line or "replaced" in line]
    print_line(console, "\n".join([f"{paraphrase} ...", lines[0], *found, *_EXPLANATION]))

    console.print()
    console.rule("4. Undo one edit, keep the others", align="left")
    undone, kept = facts[0], facts[1]
    rollback_case(model, undone.case_id)
    (answer,) = Scorer(tokenizer).generate(model, [undone.prompt], _NEW_TOKENS)
    print_line(console, f"Without case {undone.case_id}:\n{undone.prompt} ...\n    {' '.join(answer.split())}")
    save_edits(model, folder)
    remove_all_edits(model, method)
    print_line(console, f"The other two edits are in {folder}. A new process answers with them:")
    generate = ["generate", "--edits", str(folder), "--prompt", kept.prompt, "--max-new-tokens", str(_NEW_TOKENS)]
    command = [sys.executable, "-m", "easyedit_lifelong", *generate]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    answered = subprocess.run(command, check=False, env=environment)  # nosec B603 # no shell
    if answered.returncode:
        raise RunError(f"{folder}: the new process ended with {answered.returncode}; its message is above")


def compare_methods(
    console: Console,
    model: Any,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: Mapping[str, Any],
    folders: Mapping[str, Path],
) -> None:
    """Edit the same facts with each method from the unedited model, and print one table.

    Args:
        console: the console.
        model: the unedited model. Each method's edits are undone, so its statistics are computed once.
        tokenizer: its tokenizer.
        requests: the facts.
        hparams: the hyperparameters of each method, by the name of its column. All have the same ``model_name``, which
            is that of the model.
        folders: the folders of the runs, by the same names.

    Raises:
        ValueError: the hyperparameters are for several models.
    """
    model_names = {method_hparams.model_name for method_hparams in hparams.values()}
    if len(model_names) > 1:
        raise ValueError(f"the methods must have the same model_name, not {', '.join(sorted(model_names))}")
    console.print()
    console.rule(f"5. Three methods, {len(requests)} facts each", align="left")
    print_line(console, "GRACE answers the edited prompts alone; the others answer paraphrases, too.")
    summaries = {}
    held_out = read_retention(RETENTION)[::_HELD_OUT_STEP]
    # The table has no score of generated answers to held-out facts.
    inputs = Inputs(list(requests), held_out, name=DATA_NAME, generated_retention=0)
    unedited_answers = UneditedAnswers()
    for name, method_hparams in hparams.items():
        print_line(console, f"{name}:")
        with edit_progress(console, len(requests)) as progress:
            result = run_experiment(
                Experiment(CONSECUTIVE, method_hparams, inputs, batch_size=_BATCH_SIZE),
                model,
                tokenizer,
                folders[name],
                progress=progress,
                unedited_answers=unedited_answers,
            )
        summaries[name] = result.summary
        remove_all_edits(result.edited_model, get_plugins().methods.get(method_hparams.alg_name))
    low, high = next(iter(summaries.values()))["intervals"]["TRR_before"]
    title = (
        "\nAll edits are kept; each method starts from the unedited model. TRR is\n"
        f"measured on {len(held_out)} facts (95 % interval of the unedited model: {low:.2f} to {high:.2f}).\n"
        f"{len(requests)} edits are few; docs/results.md has scores after 100:"
    )
    comparison_table(console, summaries, title)


def _answers(model: Any, tokenizer: Any, facts: Sequence[EditRequest]) -> list[list[str]]:
    """Return a model's answers to the prompts of facts and to related prompts, as :func:`.related_prompts` has them."""
    texts = [[text for text, _ in related_prompts(fact)] for fact in facts]
    answers = iter(Scorer(tokenizer).generate(model, [text for of_fact in texts for text in of_fact], _NEW_TOKENS))
    return [[" ".join(next(answers).split()) for _ in of_fact] for of_fact in texts]
