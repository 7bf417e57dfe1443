"""Compare the cost of CoachHook's batch 200 with that of its batch 2.

    python benchmarks/coachhook_growth.py            # SmolLM2-135M
    python benchmarks/coachhook_growth.py --small    # a random model of four blocks

The same requests are edited as batch 2 and as batch 200; each time the state is saved and the batch is rolled back. All
other batches get given target vectors instead of optimised ones. Seconds are CPU seconds of the process, on which other
work on the machine has less influence.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _machine import alternate, describe, finish, machine, median, stop
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from easyedit_lifelong import get_plugins, load_model
from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.locate_edit.moments import second_moments

SAMPLE = Path(__file__).resolve().parents[1] / "easyedit_lifelong" / "data" / "samples" / "counterfact.json"
EARLY = 2
SMALL = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}


@dataclass
class Cost:
    """CPU seconds of one batch, one entry for each run."""

    edit: list[float] = field(default_factory=list)
    save: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Return the median of the sum of both."""
        return median(edit + save for edit, save in zip(self.edit, self.save, strict=True))


class Growth:
    """A model that receives batch after batch.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        hparams: CoachHook's hyperparameters.
        moments: E[kkᵀ] by path of the projection.
        requests: records; the first ``batch_size`` are measured, the others fill the batches between.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        hparams: CoachHookHyperParams,
        moments: dict[str, SecondMoment],
        requests: Sequence[EditRequest],
    ) -> None:
        self.model, self.hparams, size = model, hparams, hparams.batch_size
        self.state = get_plugins().methods.get(hparams.alg_name).state
        self.measured, self.others = list(requests[:size]), list(requests[size:])
        self.editor = CoachHookEditor.on(model, tokenizer, hparams, moments, [["{}"], ["It is said. {}"]])
        self.vectors = torch.randn(size, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
        self._order = random.Random(0)

    def fill(self, batches: int) -> None:
        """Write batches until the model has this number of batches."""
        size = self.hparams.batch_size
        while len(self.editor.state.batches) < batches:
            chosen = self._order.sample(self.others, size)
            self.editor.edit(chosen, self.vectors * 0.1)

    def measure(self, folder: Path, cost: Cost) -> None:
        """Edit and save the measured requests as the next batch."""
        self.state.save(self.model, folder)
        began = time.process_time()
        _, undo = self.editor.edit(self.measured)
        edited = time.process_time()
        self.state.save(self.model, folder)
        saved = time.process_time()
        undo()
        cost.edit.append(edited - began)
        cost.save.append(saved - edited)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a random model of four blocks instead of SmolLM2")
    parser.add_argument("--batches", type=int, default=200, help="which batch to compare (default %(default)s)")
    parser.add_argument("--bsz", type=int, default=10, help="edits in a batch (default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="v_num_grad_steps (default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default %(default)s)")
    parser.add_argument("--data", default=str(SAMPLE), help="records in EasyEdit's request fields, JSON or JSON Lines")
    parser.add_argument("--hparams", default="CoachHook/smollm2-135m", help="hyperparameters (default %(default)s)")
    parser.add_argument("--alpha-prompts", choices=("batch", "all"), default="batch", help="default %(default)s")
    parser.add_argument("--alpha-checked", type=int, help="with all: earlier prompts checked after a batch")
    options = parser.parse_args(argv)
    for name in ("bsz", "runs", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.batches <= EARLY:
        parser.error(f"--batches must be more than {EARLY}")
    return options


def hyperparameters(options: argparse.Namespace) -> CoachHookHyperParams:
    """Return the file's hyperparameters with what the command line changes.

    Raises:
        HyperParameterError: the file or a value can't be used.
    """
    hparams = CoachHookHyperParams.from_hparams(options.hparams)
    keep_all = options.alpha_prompts == "all"
    changes: dict[str, Any] = {
        "batch_size": options.bsz,
        "v_num_grad_steps": options.steps,
        "v_stop_loss": 0.0,
        "alpha_prompts": options.alpha_prompts,
        "alpha_checked": options.alpha_checked,
        "alpha_floor": hparams.alpha_floor if keep_all else 0.0,
    }
    if options.small:
        changes |= {"layers": [0, 1, 2], "num_layers": None, "v_loss_layer": None}
    return dataclasses.replace(hparams, **changes)


def prepare(options: argparse.Namespace) -> Growth:
    """Set up the model.

    Raises:
        LifelongError: an argument can't be used.
    """
    hparams = hyperparameters(options)
    requests = [request for request in read_requests(options.data, read_json) if request.subject]
    if len(requests) < 2 * options.bsz:
        raise LifelongError(f"{options.data}: {len(requests)} records; batches of {options.bsz} need twice as many")
    model, tokenizer = load_model(hparams.model_name, hparams.device, "float32")
    if options.small:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=model.config.vocab_size)).eval()
        moments = {}
        for path in hparams.rewrite_modules:
            keys = torch.randn(4096, SMALL["intermediate_size"]) * 0.01
            moments[path] = SecondMoment(keys.t() @ keys / len(keys), len(keys), "random keys")
    else:
        moments = second_moments(model, tokenizer, hparams)
    return Growth(model, tokenizer, hparams, moments, requests)


def measure(options: argparse.Namespace) -> dict[int, Cost]:
    """Measure both batches alternately, each on a separate model.

    Raises:
        LifelongError: an argument can't be used.
    """
    sides = {number: prepare(options) for number in (EARLY, options.batches)}
    costs = {number: Cost() for number in sides}
    with tempfile.TemporaryDirectory() as root:
        folders = {number: Path(root) / str(number) for number in sides}

        def run(number: int, cost: Cost) -> None:
            sides[number].measure(folders[number], cost)

        for number, side in sides.items():
            side.fill(number - 1)
            run(number, Cost())  # untimed, for one-time costs
        alternate(options.runs, *(lambda _, number=number: run(number, costs[number]) for number in sides))
    return costs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options, console = arguments(argv), Console()
    try:
        costs = measure(options)
    except LifelongError as error:
        return stop(error)
    early, late = costs[EARLY], costs[options.batches]
    console.print(describe(machine()))
    table = Table("batch", "edits before it", "CPU s to edit", "to save", "sum", box=box.SIMPLE)
    for number, cost in costs.items():
        before = str((number - 1) * options.bsz)
        figures = (median(cost.edit), median(cost.save), cost.total)
        table.add_row(str(number), before, *(f"{figure:.3f}" for figure in figures))
    console.print(table)
    console.print(f"batch {options.batches} costs {late.total / early.total:.3f} times batch {EARLY}")
    finish(
        "coachhook_growth",
        ours=late.total,
        theirs=early.total,
        unit=f"CPU seconds a batch: batch {options.batches} (ours) beside batch {EARLY} (theirs)",
        growth=late.total / early.total,
        batch_size=options.bsz,
        steps=options.steps,
        model="small" if options.small else options.hparams,
        alpha_prompts=options.alpha_prompts,
        alpha_checked=options.alpha_checked,
        runs={"ours": dataclasses.asdict(late), "theirs": dataclasses.asdict(early)},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
