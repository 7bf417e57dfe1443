"""Compare EasyEdit's MEMIT and the native one: seconds an edit, steps, and scores.

    python benchmarks/memit.py --edits 10 --runs 3

Both sides get the same model, requests, hyperparameters, context templates and second moments, alternately in one
process. EasyEdit's MEMIT runs through this package's bridge, as in ``consecutive --method MEMIT``.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _machine import alternate, describe, machine, stop
from _side import Side, report
from rich.console import Console

from easyedit_lifelong import NativeMemitHyperParams, load_model
from easyedit_lifelong.bridge import easyedit_method, read_easyedit_hparams
from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hparams_files import find_hparams
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.templates import context_templates
from easyedit_lifelong.methods.memit.editor import MemitEditor

SAMPLE = Path(__file__).resolve().parents[1] / "easyedit_lifelong" / "data" / "samples" / "counterfact.json"
THEIRS = "easyeditor.models.memit.memit_main"
SHOWN = ("layers", "v_num_grad_steps", "v_lr", "clamp_norm_factor", "v_weight_decay", "mom2_update_weight")
SHARED = (*SHOWN, "v_loss_layer", "kl_factor", "fact_token", "rewrite_module_tmp", "layer_module_tmp")
"""Hyperparameters that must be equal on both sides."""


class LossCounter(logging.Handler):
    """Counts the losses that EasyEdit's MEMIT prints: one at every step of a target vector."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line with a loss."""
        self.count += record.getMessage().startswith("loss ")


class Comparison:
    """Both sides of the comparison, on one model.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        requests: the edits, one batch.
        hparams: our hyperparameters.
        theirs: EasyEdit's hyperparameters.
    """

    def __init__(
        self, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: NativeMemitHyperParams, theirs: Any
    ) -> None:
        self.model, self.tokenizer, self.requests = model, tokenizer, list(requests)
        self.hparams, self._their_hparams, self._memit = hparams, theirs, easyedit_method("MEMIT")
        self.ours, self.theirs = Side("native"), Side("EasyEdit")
        self._moments = second_moments(model, tokenizer, hparams)
        self._templates = context_templates(model, tokenizer, hparams.context_template_length_params, hparams.seed)
        model_state_of(model).caches[THEIRS, "CONTEXT_TEMPLATES_CACHE"] = self._templates
        self._scorer = Scorer(tokenizer)

    def warm_up(self) -> None:
        """Make a short edit on both sides, so that no timed run contains one-time costs."""
        self._edit_theirs(self.requests[:1], dataclasses.replace(self._their_hparams, v_num_grad_steps=2))()
        self._edit_ours(self.requests[:1], dataclasses.replace(self.hparams, v_num_grad_steps=2))[1]()

    def run_ours(self, _: int) -> None:
        """Time and score the native side, and roll its edits back."""
        with self.ours.timed(len(self.requests)):
            results, undo = self._edit_ours(self.requests, self.hparams)
        self.ours.steps.append(sum(result.steps for result in results))
        self.ours.scores.append(self._score())
        undo()

    def run_theirs(self, _: int) -> None:
        """Time and score EasyEdit's side, and roll its edits back."""
        counter, logger = LossCounter(), logging.getLogger("easyedit_lifelong.bridge.method_context")
        logger.addHandler(counter)
        logger.setLevel(logging.DEBUG)
        try:
            with self.theirs.timed(len(self.requests)):
                undo = self._edit_theirs(self.requests, self._their_hparams)
        finally:
            logger.removeHandler(counter)
            logger.setLevel(logging.NOTSET)
        self.theirs.steps.append(
            counter.count - len(self.requests)
        )  # after the last loss of a request there is no step
        self.theirs.scores.append(self._score())
        undo()

    def _edit_ours(self, requests: Sequence[EditRequest], hparams: NativeMemitHyperParams) -> Any:
        return MemitEditor.on(self.model, self.tokenizer, hparams, self._moments, self._templates).edit(requests)

    def _edit_theirs(self, requests: Sequence[EditRequest], hparams: Any) -> Any:
        return self._memit.apply(self.model, self.tokenizer, requests, hparams)[1]

    def _score(self) -> dict[str, float | None]:
        edits = [(request.prompt, request.target_new) for request in self.requests]
        rephrased = [(prompt, request.target_new) for request in self.requests for prompt in request.rephrase_prompts]
        named = {"reliability": edits, "generality": rephrased}
        return {
            name: mean(score.accuracy for score in self._scorer.forced(self.model, pairs))
            for name, pairs in named.items()
        }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--edits", type=int, default=10, help="how many records to edit (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default %(default)s)")
    parser.add_argument("--data", default=str(SAMPLE), help="records in EasyEdit's request fields, JSON or JSON Lines")
    parser.add_argument("--hparams", default="smollm2-135m", help="file in MEMIT/ and MEMIT-native/ (%(default)s)")
    parser.add_argument("--steps", type=int, help="another v_num_grad_steps")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args(argv)
    for name in ("edits", "runs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def compare(options: argparse.Namespace, console: Console) -> Comparison:
    """Run both sides.

    Raises:
        LifelongError: the files cannot be used, or EasyEdit is not installed.
    """
    changes = {"batch_size": options.edits}
    if options.steps:
        changes["v_num_grad_steps"] = options.steps
    hparams = NativeMemitHyperParams.from_hparams(f"MEMIT-native/{options.hparams}")
    hparams = dataclasses.replace(hparams, **changes)
    theirs = read_easyedit_hparams(find_hparams(f"MEMIT/{options.hparams}"), "MEMIT")
    theirs = dataclasses.replace(theirs, **changes)
    differing = [name for name in SHARED if getattr(hparams, name) != getattr(theirs, name)]
    if differing:
        raise LifelongError(f"the two hyperparameter files differ in {', '.join(differing)}")
    requests = read_requests(options.data, read_json)[: options.edits]
    model, tokenizer = load_model(hparams.model_name, hparams.device, "float32")
    console.print(describe(machine()))
    console.print(
        f"{hparams.model_name}, {len(requests)} edits in one batch, layers {hparams.layers}, at most "
        f"{hparams.v_num_grad_steps} steps, weight {hparams.mom2_update_weight:g}"
    )
    comparison = Comparison(model, tokenizer, requests, hparams, theirs)
    comparison.warm_up()
    alternate(options.runs, comparison.run_theirs, comparison.run_ours)
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options, console = arguments(argv), Console()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        comparison = compare(options, console)
    except LifelongError as error:
        return stop(error)
    ours, theirs, hparams = comparison.ours, comparison.theirs, comparison.hparams
    report(
        "memit",
        console,
        theirs,
        ours,
        edits=len(comparison.requests),
        model=str(hparams.model_name),
        hparams={name: getattr(hparams, name) for name in SHOWN},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
