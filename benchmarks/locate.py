"""Compare causal tracing by ROME's authors with ours: seconds a fact, and the largest difference of a score.

    git clone https://github.com/kmeng01/rome
    ROME_CHECKOUT=rome python benchmarks/locate.py --data known_1000.json --facts 1

Both sides trace the same facts, with the same noise, kinds and window, alternately in one process. The authors' code is
read from the checkout. It gets the names of the layers of other families than GPT-2's, and the CPU as its device.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
from _machine import alternate, describe, finish, machine, median, stop
from rich.console import Console

from easyedit_lifelong import load_model
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.locate.corruption import GaussianNoise, subject_embedding_deviation
from easyedit_lifelong.locate.known_facts import EncodedFact, encode_known_fact, read_known_facts
from easyedit_lifelong.locate.restorations import KINDS
from easyedit_lifelong.locate.sites import Sites
from easyedit_lifelong.locate.trace import NOISE_FACTOR, Tracer
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
    tracer = Tracer(model, tokenizer, GaussianNoise(level), kinds=kinds, severed=[])
    facts: list[EncodedFact] = []
    for fact in everything:
        encoded = encode_known_fact(tokenizer, fact)
        if len(encoded.prompt) <= arguments.longest and tracer.prediction(encoded) is None:
            facts.append(encoded)
        if len(facts) == arguments.facts:
            break
    their_model = theirs.ModelAndTokenizer(model=model, tokenizer=tokenizer)
    their_model.num_layers = len(Sites(model).blocks)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    scores: dict[str, list[torch.Tensor]] = {"ours": [], "theirs": []}

    def run_ours(_: int) -> None:
        for fact in facts:
            began = time.perf_counter()
            trace = tracer.trace(fact)
            seconds["ours"].append(time.perf_counter() - began)
            scores["ours"] += [trace.scores[kind] for kind in kinds]

    def run_theirs(_: int) -> None:
        for fact in facts:
            began = time.perf_counter()
            for kind in kinds:
                result = theirs.calculate_hidden_flow(
                    their_model, fact.fact.prompt, fact.fact.subject, noise=level, kind=THEIR_KINDS[kind]
                )
                scores["theirs"].append(result["scores"].double())
            seconds["theirs"].append(time.perf_counter() - began)

    alternate(arguments.runs, run_theirs, run_ours)
    differences = [float((a - b).abs().max()) for a, b in zip(scores["ours"], scores["theirs"], strict=True)]
    console = Console()
    console.print(describe(machine()))
    lengths = [len(fact.prompt) for fact in facts]
    console.print(f"{len(facts)} facts of {min(lengths)} to {max(lengths)} tokens, {', '.join(kinds)}")
    for side, values in seconds.items():
        console.print(f"{side}: {median(values):.1f} s a fact (median)")
    console.print(f"largest difference of a score: {max(differences):.2g}")
    finish(
        "locate",
        ours=median(seconds["ours"]),
        theirs=median(seconds["theirs"]),
        unit="seconds a fact",
        runs=seconds,
        largest_difference=max(differences),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
