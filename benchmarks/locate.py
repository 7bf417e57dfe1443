"""Compare causal tracing by ROME's authors with ours: seconds a fact, and the largest difference of a score.

    git clone https://github.com/kmeng01/rome
    ROME_CHECKOUT=rome python benchmarks/locate.py --data known_1000.json --facts 1

Both sides trace the same facts, with the same noise and window, one kind of restored values after another, alternately
in one process. The authors' code is read from the checkout. It gets the names of the layers of other families than
GPT-2's, and the CPU as its device.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _machine import alternate, describe, finish, machine, median, stop
from rich.console import Console

from easyedit_lifelong import load_model
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.locate.corruption import GaussianNoise, subject_embedding_deviation
from easyedit_lifelong.locate.known_facts import EncodedFact, encode_known_fact, read_known_facts
from easyedit_lifelong.locate.restorations import KINDS, Kind
from easyedit_lifelong.locate.sites import Sites
from easyedit_lifelong.locate.trace import Tracer
from easyedit_lifelong.locate.trace_settings import NOISE_FACTOR
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.runner import Runner

VARIABLE = "ROME_CHECKOUT"
UNUSED = {
    "datasets": ("load_dataset",),
    "dsets": ("KnownsDataset",),
    "rome": (),
    "rome.tok_dataset": ("TokenizedDataset", "dict_to_", "flatten_masked_batch", "length_collation"),
    "util.globals": ("DATA_DIR",),
    "util.runningstats": ("Covariance", "tally"),
}
"""Modules that the authors' file imports and that tracing doesn't use, with the names that it imports from them."""

SIDES = ("ours", "theirs")
THEIR_KINDS = {"state": None, "mlp": "mlp", "attention": "attn"}


def authors_code(checkout: Path, model: Any) -> Any:
    """Return the authors' module, ready for a model.

    Raises:
        FileNotFoundError: the folder is no checkout of ROME.
    """
    if not (checkout / "experiments" / "causal_trace.py").is_file():
        raise FileNotFoundError(f"{checkout}: is no checkout of kmeng01/rome (experiments/causal_trace.py is missing)")
    for name, attributes in UNUSED.items():
        stub = types.ModuleType(name)
        for attribute in attributes:
            setattr(stub, attribute, None)
        sys.modules[name] = stub
    sys.path.insert(0, str(checkout))
    from experiments import causal_trace

    anatomy, sites = anatomy_of(model), Sites(model)
    assert anatomy is not None
    paths = {module: path for path, module in model.named_modules()}
    embed = paths[model.get_input_embeddings()]
    modules = {"mlp": sites.modules("mlp"), "attn": sites.modules("attention"), None: sites.blocks}

    def layer_name(_: Any, number: int, kind: str | None = None) -> str:
        return embed if kind == "embed" else paths[modules[kind][number]]

    make_inputs = causal_trace.make_inputs
    causal_trace.layername = layer_name
    causal_trace.make_inputs = lambda tokenizer, prompts: make_inputs(tokenizer, prompts, device=str(model.device))
    return causal_trace


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, required=True, help="facts in the form of ROME's known_1000.json")
    parser.add_argument("--facts", type=int, default=1, help="number of facts that the model knows")
    parser.add_argument("--longest", type=int, default=12, help="largest number of tokens of a prompt")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--device")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; return the exit code."""
    arguments = parse()
    if VARIABLE not in os.environ:
        return stop(f"{VARIABLE} must be the folder of a checkout of kmeng01/rome")
    try:
        everything = read_known_facts(arguments.data)
        model, tokenizer = load_model(arguments.model, arguments.device)
        theirs = authors_code(Path(os.environ[VARIABLE]).expanduser(), model)
    except (LifelongError, OSError) as error:
        return stop(error)
    kinds = [kind for kind in KINDS if kind in arguments.kinds.split(",")]
    embed = Runner(model, tokenizer).model.get_input_embeddings()
    level = NOISE_FACTOR * subject_embedding_deviation(tokenizer, embed, [fact.subject for fact in everything])
    tracers = {kind: Tracer(model, tokenizer, GaussianNoise(level), kinds=[kind], severed=[]) for kind in kinds}
    facts: list[EncodedFact] = []
    for fact in everything:
        encoded = encode_known_fact(tokenizer, fact)
        if len(encoded.prompt) <= arguments.longest and tracers[kinds[0]].prediction(encoded) is None:
            facts.append(encoded)
        if len(facts) == arguments.facts:
            break
    their_model = theirs.ModelAndTokenizer(model=model, tokenizer=tokenizer)
    their_model.num_layers = len(Sites(model).blocks)
    console = Console()
    console.print(describe(machine()))
    lengths = [len(fact.prompt) for fact in facts]
    console.print(f"{len(facts)} facts of {min(lengths)} to {max(lengths)} tokens; seconds a fact (medians)")
    measured = {}
    for kind in kinds:
        timings = Timings()

        def run_ours(_: int, kind: Kind = kind, timings: Timings = timings) -> None:
            timings.measure("ours", facts, lambda fact: tracers[kind].trace(fact).scores[kind])

        def run_theirs(_: int, kind: Kind = kind, timings: Timings = timings) -> None:
            timings.measure("theirs", facts, lambda fact: their_scores(theirs, their_model, fact, level, kind))

        alternate(arguments.runs, run_theirs, run_ours)
        measured[kind] = timings
        console.print(f"{kind}: {timings.line()}")
    totals = {side: sum(median(timings.seconds[side]) for timings in measured.values()) for side in SIDES}
    console.print(f"all: authors {totals['theirs']:.1f}, ours {totals['ours']:.1f}")
    finish(
        "locate",
        **totals,
        unit="seconds a fact",
        seconds={kind: timings.seconds for kind, timings in measured.items()},
        cpu={kind: timings.cpu for kind, timings in measured.items()},
        largest_difference={kind: timings.largest_difference() for kind, timings in measured.items()},
    )
    return 0


def their_scores(theirs: Any, their_model: Any, fact: EncodedFact, level: float, kind: Kind) -> torch.Tensor:
    """Return the scores of the authors' code."""
    result = theirs.calculate_hidden_flow(
        their_model, fact.fact.prompt, fact.fact.subject, noise=level, kind=THEIR_KINDS[kind]
    )
    return result["scores"].double()


class Timings:
    """Seconds, CPU seconds and scores of both sides, for one kind of restored values."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        self.cpu: dict[str, list[float]] = {side: [] for side in SIDES}
        self.scores: dict[str, list[torch.Tensor]] = {side: [] for side in SIDES}

    def measure(self, side: str, facts: list[EncodedFact], trace: Callable[[EncodedFact], torch.Tensor]) -> None:
        """Trace the facts, and add their times and scores to those of a side."""
        for fact in facts:
            began, cpu_began = time.perf_counter(), time.process_time()
            self.scores[side].append(trace(fact))
            self.seconds[side].append(time.perf_counter() - began)
            self.cpu[side].append(time.process_time() - cpu_began)

    def largest_difference(self) -> float:
        """Return the largest difference of a score."""
        return max(float((a - b).abs().max()) for a, b in zip(*self.scores.values(), strict=True))

    def line(self) -> str:
        """Return medians, their ratio, and the largest difference of a score, as text."""
        seconds = {side: median(values) for side, values in self.seconds.items()}
        cpu = {side: median(values) for side, values in self.cpu.items()}
        return (
            f"authors {seconds['theirs']:.1f} (CPU {cpu['theirs']:.1f}), ours {seconds['ours']:.1f} (CPU "
            f"{cpu['ours']:.1f}), {seconds['theirs'] / seconds['ours']:.1f} times faster; largest difference of a "
            f"score {self.largest_difference():.2g}"
        )


if __name__ == "__main__":
    sys.exit(main())
