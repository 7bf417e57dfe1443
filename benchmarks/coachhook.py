"""Compare CoachHook by its authors' code and by ours: seconds an edit, and scores.

    python benchmarks/coachhook.py --upstream PATH_OF_A_COACHHOOK_CHECKOUT

Both sides get the same model, requests, hyperparameters, context templates and second moments, alternately in one
process. Needs EasyEdit's 2023 release, for which the authors' code is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _coachhook_upstream as authors
import torch
from _machine import alternate, describe, machine, stop
from _side import Side, report
from rich.console import Console

from easyedit_lifelong import load_model
from easyedit_lifelong.covariance import SecondMoment, regularisation
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, LifelongError
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer, forced_answer
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.templates import Templates, context_templates
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.prompt_positions import prompt_lengths

SAMPLE = Path(__file__).resolve().parents[1] / "easyedit_lifelong" / "data" / "samples" / "counterfact.json"
STOP_LOSS = 0.05
"""A constant of MEMIT's code, which the authors use; in our code it is a hyperparameter."""

SHOWN = ("v_num_grad_steps", "v_lr", "clamp_norm_factor", "v_weight_decay", "mom2_update_weight", "alpha_z")


class Judge:
    """Scores an edited model under teacher forcing, as EasyEdit defines it.

    It scores one unpadded row at a time, with all tokens of the answer, because the authors' z-scores count every token
    of a row.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        requests: the edits.
    """

    def __init__(self, model: Any, tokenizer: Any, requests: Sequence[EditRequest]) -> None:
        self._encode = functools.partial(encode_pair, tokenizer)
        self._edits = [(request.prompt, request.target_new) for request in requests]
        self._rephrased = [(prompt, r.target_new) for r in requests for prompt in r.rephrase_prompts]
        probes = [probe for r in requests for probes in r.locality.values() for probe in probes]
        self._nearby = [(probe.prompt, probe.answer) for probe in probes]
        self._before = self._forced(model, self._nearby)

    def score(self, model: Any) -> dict[str, float | None]:
        """Return reliability, generality and locality."""

        def accuracy(answers: Sequence[ForcedAnswer]) -> float | None:
            return mean(answer.accuracy for answer in answers)

        after = self._forced(model, self._nearby)
        return {
            "reliability": accuracy(self._forced(model, self._edits)),
            "generality": accuracy(self._forced(model, self._rephrased)),
            "locality": mean(a.agreement(b) for a, b in zip(after, self._before, strict=True)),
        }

    @torch.no_grad()
    def _forced(self, model: Any, questions: Sequence[tuple[str, str]]) -> list[ForcedAnswer]:
        answers = []
        for prompt, answer in questions:
            pair = self._encode(prompt, answer)
            with prompt_lengths(model, [len(pair.prompt)]):
                logits = model(input_ids=torch.tensor([pair.tokens])).logits[0]
            answers.append(forced_answer(logits[len(pair.prompt) - 1 : len(pair.tokens) - 1], pair.target))
        return answers


class Comparison:
    """Both sides of the comparison, on one model.

    Args:
        upstream: the authors' module.
        model: the model.
        tokenizer: its tokenizer.
        requests: the edits.
        hparams: the hyperparameters of both sides.
        moments: E[kkᵀ] by path of the projection.
        templates: context templates.
    """

    def __init__(
        self,
        upstream: Any,
        model: Any,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        hparams: CoachHookHyperParams,
        moments: dict[str, SecondMoment],
        templates: Templates,
    ) -> None:
        self.upstream, self.model, self.tokenizer, self.templates = upstream, model, tokenizer, templates
        self.requests, self.hparams, self.moments = list(requests), hparams, moments
        self.judge = Judge(model, tokenizer, requests)
        self.ours, self.theirs = Side("ours"), Side("authors")
        self._regularised = {path: _regularised(moment) for path, moment in moments.items()}

    def warm_up(self) -> None:
        """Make a short edit on both sides, so that no timed run contains one-time costs."""
        short = dataclasses.replace(self.hparams, v_num_grad_steps=2)
        self._edit_theirs(self.requests[:1], short)
        self._edit_ours(self.requests[:1], short)[1]()

    def run_ours(self, _: int) -> None:
        """Time and score our side, from the unedited model to the last batch."""
        with self.ours.timed(len(self.requests)):
            results, undo = self._edit_ours(self.requests, self.hparams)
        self.ours.steps.append(sum(result.steps for result in results))
        self.ours.scores.append(self.judge.score(self.model))
        undo()

    def run_theirs(self, _: int) -> None:
        """Time and score the authors' side in the same way."""
        with self.theirs.timed(len(self.requests)):
            run = self._edit_theirs(self.requests, self.hparams)
        self.theirs.steps.append(run.steps)
        with run.in_place(self.upstream, self.model):
            self.theirs.scores.append(self.judge.score(self.model))

    def _edit_ours(self, requests: Sequence[EditRequest], hparams: CoachHookHyperParams) -> Any:
        editor = CoachHookEditor.on(self.model, self.tokenizer, hparams, self.moments, self.templates)
        return editor.edit(requests)

    def _edit_theirs(self, requests: Sequence[EditRequest], hparams: CoachHookHyperParams) -> authors.UpstreamRun:
        records = [
            {"case_id": r.case_id, "prompt": r.prompt, "subject": r.subject, "target_new": r.target_new}
            for r in requests
        ]
        try:
            return authors.edit(
                self.upstream,
                self.model,
                self.tokenizer,
                records,
                authors.hyperparameters(hparams, self.model),
                hparams.alpha_z,
                self.templates,
                self._regularised.__getitem__,
            )
        finally:
            # Their code switches the weights' gradients off permanently; a user's model has them on.
            self.model.requires_grad_(True)


def _regularised(statistic: SecondMoment) -> torch.Tensor:
    moment = statistic.moment.clone()
    moment.diagonal().add_(regularisation(statistic.count, len(moment)) * moment.diagonal().mean())
    return moment


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upstream", required=True, help="checkout of github.com/Syon-Li/CoachHook")
    parser.add_argument("--edits", type=int, default=20, help="how many records to edit (default %(default)s)")
    parser.add_argument("--bsz", type=int, default=10, help="edits in a batch (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default %(default)s)")
    parser.add_argument("--data", default=str(SAMPLE), help="records in EasyEdit's request fields, JSON or JSON Lines")
    parser.add_argument("--hparams", default="CoachHook/smollm2-135m", help="hyperparameters (default %(default)s)")
    parser.add_argument("--layers", help="edit these layers instead, e.g. 3-7 or 3,5")
    parser.add_argument("--weight", type=float, help="another mom2_update_weight")
    parser.add_argument("--steps", type=int, help="another v_num_grad_steps")
    parser.add_argument("--lr", type=float, help="another v_lr")
    parser.add_argument("--alpha", type=float, help="another alpha_z")
    parser.add_argument("--corpus", help="corpus of the second moments: a text file, or a dataset's name")
    parser.add_argument("--tokens", type=int, help="how many of its tokens")
    parser.add_argument("--stats-dir", help="folder of second moments (default: this package's cache)")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args(argv)
    for name in ("edits", "bsz", "runs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def hyperparameters(options: argparse.Namespace) -> CoachHookHyperParams:
    """Return the hyperparameters of both sides.

    Raises:
        HyperParameterError: the file or a value can't be used.
    """
    overrides = {
        "layers": _numbers(options.layers),
        "mom2_update_weight": options.weight,
        "v_num_grad_steps": options.steps,
        "v_lr": options.lr,
        "alpha_z": options.alpha,
        "mom2_dataset": options.corpus,
        "mom2_n_tokens": options.tokens,
        "stats_dir": options.stats_dir,
    }
    changes = {name: value for name, value in overrides.items() if value is not None}
    if options.layers:
        changes["num_layers"] = None
    hparams = CoachHookHyperParams.from_hparams(options.hparams)
    # Features that the authors' code lacks are switched off on our side, too.
    paper: dict[str, Any] = {
        "mention_templates": [],
        "alpha_model": "unedited",
        "alpha_prompts": "batch",
        "alpha_floor": 0.0,
        "alpha_checked": None,
        "scope_score": "z",
        "z_tokens": "all",
        "context_template_length_params": [[10, 5]],
    }
    return dataclasses.replace(hparams, batch_size=options.bsz, v_stop_loss=STOP_LOSS, wohk=False, **paper, **changes)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    ranges = [part.partition("-") for part in text.split(",")]
    try:
        return [n for first, dash, last in ranges for n in range(int(first), int(last if dash else first) + 1)]
    except ValueError:
        raise LifelongError(f"--layers: {text!r} isn't a list of numbers such as 3-7 or 3,5") from None


def compare(options: argparse.Namespace, console: Console) -> Comparison:
    """Set up both sides and run them alternately.

    Raises:
        UpstreamError: the authors' code can't be run.
        LifelongError: an argument can't be used.
    """
    upstream = authors.load_upstream(options.upstream)  # first, because it fails fastest
    hparams = hyperparameters(options)
    requests = read_requests(options.data, read_json)[: options.edits]
    for request in requests:
        # The authors' code would raise an error in the middle of a run.
        if not request.subject or request.prompt.count(request.subject) != 1:
            raise DataError(f"{request.where}, field 'subject': must occur in the prompt exactly once")
    model, tokenizer = load_model(hparams.model_name, hparams.device, "float32")
    console.print(f"{describe(machine())}")
    console.print(
        f"{hparams.model_name}, {len(requests)} edits in batches of {options.bsz}, layers {hparams.edited_layers}, "
        f"at most {hparams.v_num_grad_steps} steps, weight {hparams.mom2_update_weight:g}, α {hparams.alpha_z:g}"
    )
    moments = second_moments(model, tokenizer, hparams)
    templates = context_templates(model, tokenizer, hparams.context_template_length_params, hparams.seed)
    comparison = Comparison(upstream, model, tokenizer, requests, hparams, moments, templates)
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
    except (authors.UpstreamError, LifelongError) as error:
        return stop(error)
    ours, theirs, hparams = comparison.ours, comparison.theirs, comparison.hparams
    report(
        "coachhook",
        console,
        theirs,
        ours,
        edits=len(comparison.requests),
        batch_size=hparams.batch_size,
        model=str(hparams.model_name),
        layers=hparams.edited_layers,
        hparams={name: getattr(hparams, name) for name in SHOWN},
        upstream=authors.commit(options.upstream),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
