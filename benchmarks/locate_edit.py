"""Compare EasyEdit's methods with ours, pair by pair: seconds an edit, steps, and scores.

    python benchmarks/locate_edit.py --methods MEMIT,AlphaEdit --edits 10 --runs 3

Both sides of a pair get the same weights, requests, hyperparameters, context templates and second moments, alternately
in one process. A pair is skipped with a message if one of its sides isn't there: EasyEdit's release has MEMIT and ROME
only, its main branch (a checkout on PYTHONPATH) has all.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _machine import alternate, describe, finish, machine, median, stop
from _side import Side, table
from rich.console import Console

from easyedit_lifelong import load_model
from easyedit_lifelong.bridge import easyedit_method, hparams_folders, read_easyedit_hparams, require_easyedit
from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import HyperParameterError, LifelongError
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hparams_files import find_hparams
from easyedit_lifelong.methods.locate_edit.templates import context_templates
from easyedit_lifelong.plugins import get_plugins

SAMPLE = Path(__file__).resolve().parents[1] / "easyedit_lifelong" / "data" / "samples" / "counterfact.json"


@dataclass(frozen=True)
class Pair:
    """A method of EasyEdit and ours.

    Attributes:
        theirs: the name of EasyEdit's method.
        ours: the name of our method.
        templates_in: the module of EasyEdit that stores the context templates; None if the method has none.
        one_group: whether it stores them as one list, without groups.
        settings: values of our hyperparameters without which ours would compute something else.
    """

    theirs: str
    ours: str
    templates_in: str | None = None
    one_group: bool = False
    settings: tuple[tuple[str, Any], ...] = ()


PAIRS = {
    "ROME": Pair("EasyEdit/ROME", "ROME-native", "rome.rome_main", one_group=True),
    "MEMIT": Pair("EasyEdit/MEMIT", "MEMIT-native", "memit.memit_main"),
    "AlphaEdit": Pair(
        "EasyEdit/AlphaEdit", "AlphaEdit", "alphaedit.AlphaEdit_main", settings=(("nullspace_energy", None),)
    ),
    "UltraEdit": Pair("EasyEdit/ULTRAEDIT", "UltraEdit", settings=(("token", "ans"),)),
    "Defer": Pair("EasyEdit/DEFER", "Defer-native"),
}
OWN_SETTINGS = {"alg_name", "device", "model_name", "stats_dir", "mom2_dataset", "mom2_n_samples", "mom2_dtype"}
"""Settings that each side reads from its own file: they do not change what is computed."""


class LossCounter(logging.Handler):
    """Counts the losses that EasyEdit's methods print: one at every step of a target vector."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line with a loss."""
        self.count += record.getMessage().startswith("loss ")


@dataclass
class Editor:
    """One side of a comparison: a method and the model that it edits.

    Attributes:
        method: the method.
        hparams: its hyperparameters.
        model: its model.
        side: its measurements.
    """

    method: Any
    hparams: Any
    model: Any
    side: Side

    def edit(self, tokenizer: Any, requests: Sequence[EditRequest]) -> list[Any]:
        """Edit the model; return a rollback for each call, one for all requests if the method takes a batch."""
        size = len(requests) if self.method.batchable else 1
        batches = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
        return [self.method.apply(self.model, tokenizer, batch, self.hparams)[1] for batch in batches]


class Comparison:
    """Both sides of the comparison.

    Each side's model carries one earlier edit when it is timed, so that no timed run contains one-time costs. Ours are
    the editor, context templates and factorisations, EasyEdit's are templates, second moments and projectors.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        requests: the edits, one batch.
        earlier: the earlier edit.
        theirs: EasyEdit's method and hyperparameters.
        ours: our method and hyperparameters.
        pair: the entry of :data:`PAIRS`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        earlier: EditRequest,
        theirs: tuple[Any, Any],
        ours: tuple[Any, Any],
        pair: Pair,
    ) -> None:
        self.tokenizer, self.requests, self._scorer = tokenizer, list(requests), Scorer(tokenizer)
        self.theirs = Editor(*theirs, copy.deepcopy(model), Side("EasyEdit"))
        self.ours = Editor(*ours, copy.deepcopy(model), Side(pair.ours))
        self._locality = [
            (probe.prompt, probe.answer)
            for request in requests
            for probes in request.locality.values()
            for probe in probes
        ]
        self._unedited = [answer.chosen for answer in self._scorer.forced(model, self._locality)]
        if pair.templates_in is not None:
            groups = context_templates(model, tokenizer, ours[1].context_template_length_params, ours[1].seed)
            templates = [template for group in groups for template in group] if pair.one_group else groups
            caches = model_state_of(self.theirs.model).caches
            caches[f"easyeditor.models.{pair.templates_in}", "CONTEXT_TEMPLATES_CACHE"] = templates
        for editor in (self.theirs, self.ours):
            if editor.method.prepare is not None:
                editor.method.prepare(editor.model, tokenizer, editor.hparams, None)
            editor.edit(tokenizer, [earlier])

    def run_ours(self, _: int) -> None:
        """Time and score our side, and roll its edits back."""
        rollbacks = self._run(self.ours)
        results = [result for rollback in rollbacks for result in rollback.results]
        self.ours.side.steps.append(sum(getattr(result, "steps", 0) for result in results))

    def run_theirs(self, _: int) -> None:
        """Time and score EasyEdit's side, and roll its edits back."""
        counter, logger = LossCounter(), logging.getLogger("easyedit_lifelong.bridge.method_context")
        logger.addHandler(counter)
        logger.setLevel(logging.DEBUG)
        try:
            self._run(self.theirs)
        finally:
            logger.removeHandler(counter)
            logger.setLevel(logging.NOTSET)
        # After the last loss of a request there is no step.
        self.theirs.side.steps.append(max(0, counter.count - len(self.requests)))

    def _run(self, editor: Editor) -> list[Any]:
        with editor.side.timed(len(self.requests)):
            rollbacks = editor.edit(self.tokenizer, self.requests)
        editor.side.scores.append(self._score(editor.model))
        for rollback in reversed(rollbacks):
            rollback()
        return rollbacks

    def _score(self, model: Any) -> dict[str, float | None]:
        edits = [(request.prompt, request.target_new) for request in self.requests]
        rephrased = [(prompt, request.target_new) for request in self.requests for prompt in request.rephrase_prompts]
        answers = self._scorer.forced(model, self._locality)
        unchanged = [answer.chosen == chosen for answer, chosen in zip(answers, self._unedited, strict=True)]
        return {
            "reliability": mean(answer.accuracy for answer in self._scorer.forced(model, edits)),
            "generality": mean(answer.accuracy for answer in self._scorer.forced(model, rephrased)),
            "locality": mean(map(float, unchanged)),
        }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=",".join(PAIRS), help="pairs to compare (default %(default)s)")
    parser.add_argument("--edits", type=int, default=10, help="how many records to edit (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default %(default)s)")
    parser.add_argument("--data", default=str(SAMPLE), help="records in EasyEdit's request fields, JSON or JSON Lines")
    parser.add_argument("--hparams", default="smollm2-135m", help="name of the methods' files (default %(default)s)")
    parser.add_argument("--steps", type=int, help="another v_num_grad_steps")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args(argv)
    for name in ("edits", "runs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    options.methods = options.methods.split(",")
    if unknown := [name for name in options.methods if name not in PAIRS]:
        parser.error(f"--methods: {', '.join(unknown)}: choose from {', '.join(PAIRS)}")
    return options


def sides_of(pair: Pair, options: argparse.Namespace) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return EasyEdit's method with its hyperparameters, and ours, with equal values.

    Raises:
        LifelongError: one of the sides isn't there.
    """
    method = get_plugins().methods.get(pair.ours)
    theirs_method = easyedit_method(pair.theirs)
    theirs = read_easyedit_hparams(_their_file(pair, options.hparams), pair.theirs)
    changes = {"batch_size": options.edits, "v_num_grad_steps": options.steps or getattr(theirs, "v_num_grad_steps", 0)}
    known = {item.name for item in dataclasses.fields(theirs)}
    theirs = dataclasses.replace(theirs, **{name: value for name, value in changes.items() if name in known})
    cls: Any = method.hparams_class
    ours = cls.from_hparams(f"{pair.ours}/{options.hparams}")
    shared = known & {item.name for item in dataclasses.fields(ours)} - OWN_SETTINGS
    values = {name: getattr(theirs, name) for name in shared} | dict(pair.settings)
    return (theirs_method, theirs), (method, dataclasses.replace(ours, **values))


def _their_file(pair: Pair, name: str) -> Path:
    """Return the hyperparameter file of EasyEdit's method.

    Raises:
        HyperParameterError: there is none.
    """
    for folder in hparams_folders(pair.theirs):
        try:
            return find_hparams(f"{folder}/{name}")
        except HyperParameterError:
            continue
    raise HyperParameterError(f"there is no hyperparameter file {name} of {pair.theirs}")


def compare(name: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run both sides of a pair, print a table, and return the results.

    Raises:
        LifelongError: one of the sides isn't there, or can't edit.
    """
    pair = PAIRS[name]
    theirs, ours = sides_of(pair, options)
    requests = read_requests(options.data, read_json)[: options.edits + 1]
    model, tokenizer = load_model(ours[1].model_name, ours[1].device, "float32")
    comparison = Comparison(model, tokenizer, requests[:-1], requests[-1], theirs, ours, pair)
    alternate(options.runs, comparison.run_theirs, comparison.run_ours)
    their_side, our_side = comparison.theirs.side, comparison.ours.side
    console.print(f"[bold]{name}[/bold], {len(requests) - 1} edits, {ours[1].model_name}", table(their_side, our_side))
    ratio = median(their_side.seconds) / median(our_side.seconds)
    console.print(f"{ratio:.1f} times faster an edit (medians of {len(our_side.seconds)})")
    both = {"ours": our_side, "theirs": their_side}
    return {
        "ratio": round(ratio, 3),
        "seconds": {key: side.seconds for key, side in both.items()},
        "cpu": {key: side.cpu for key, side in both.items()},
        "steps": {key: side.steps for key, side in both.items()},
        "scores": {key: side.scores[-1] for key, side in both.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. In the last line, ``ours`` and ``theirs`` are those of the pair with the smallest ratio."""
    options, console = arguments(argv), Console()
    if options.threads:
        torch.set_num_threads(options.threads)
    console.print(describe(machine()))
    results: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in options.methods:
        try:
            results[name] = compare(name, options, console)
        except LifelongError as error:
            skipped[name] = str(error)
            console.print(f"{name}: skipped: {error}", markup=False)
    if not results:
        return stop("no pair could be compared")
    slowest = min(results, key=lambda name: results[name]["ratio"])
    seconds = results[slowest]["seconds"]
    finish(
        "locate_edit",
        ours=median(seconds["ours"]),
        theirs=median(seconds["theirs"]),
        unit="seconds an edit",
        smallest_ratio_of=slowest,
        edits=options.edits,
        easyedit=require_easyedit().flavour,
        pairs=results,
        skipped=skipped,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
