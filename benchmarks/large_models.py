"""What an edit costs on models of 6 to 8 billion parameters: seconds, memory, and the speed of the edited model.

    python benchmarks/large_models.py --models qwen2.5-7b,gpt-j-6B --methods GRACE,CoachHook

The models have the shapes of the published ones and random weights, so no checkpoint is needed, and scores mean
nothing. The shipped hyperparameter files are used, with fewer tokens for the second moments. Needs a GPU with 40 GiB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _clock import GIB, Clock
from _machine import describe, machine, stop
from _random_models import CONFIGS, random_model
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from easyedit_lifelong import get_plugins, load_model
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import LifelongError

SAMPLE = Path(__file__).resolve().parents[1] / "easyedit_lifelong" / "data" / "samples" / "counterfact.json"


def hyperparameters(method: str, name: str, dtype: str, requests: int, tokens: int, steps: int | None) -> Any:
    """Read the shipped file of a method and model, with fewer tokens for the second moments."""
    hparams = get_plugins().methods.get(method).hparams_class.from_hparams(f"{method}/{name}")
    changes: dict[str, Any] = {"dtype": dtype, "batch_size": requests}
    if hasattr(hparams, "mom2_dataset"):
        changes |= {"mom2_dataset": "self-sampled", "mom2_n_tokens": tokens, "mom2_n_samples": None, "stats_dir": None}
    if steps is not None:
        changes["n_iter" if hasattr(hparams, "n_iter") else "v_num_grad_steps"] = steps
    return dataclasses.replace(hparams, **changes)


def measure(
    model: Any, tokenizer: Any, method: str, hparams: Any, requests: Sequence[EditRequest], clock: Clock
) -> dict[str, Any]:
    """Edit, time a forward pass before and after, roll back, and check that the model is bitwise what it was."""
    entry = get_plugins().methods.get(method)
    batch = tokenizer([request.prompt for request in requests], return_tensors="pt", padding=True).to(clock.device)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(**batch).logits

    def forward_seconds() -> float:
        forward()
        return statistics.median(clock.measure(forward)[0] for _ in range(10))

    preparation = clock.measure(lambda: entry.prepare(model, tokenizer, hparams, None))[0] if entry.prepare else 0.0
    logits, base = forward(), forward_seconds()
    entry.apply(model, tokenizer, list(requests[:1]), hparams)[1]()  # first use: kernels, templates
    seconds, memory, (_, rollback) = clock.measure(lambda: entry.apply(model, tokenizer, list(requests), hparams))
    edited = forward_seconds()
    changed = not torch.equal(forward(), logits)
    rollback()
    return {
        "seconds_preparation": preparation,
        "seconds_per_edit": seconds / len(requests),
        "gib_beyond_model": memory,
        "steps": sum(result.steps for result in rollback.results) / len(requests),
        "learned": sum(result.learned for result in rollback.results),
        "forward_ms_base": base * 1000,
        "forward_ms_edited": edited * 1000,
        "changed": changed,
        "restored_bitwise": torch.equal(forward(), logits),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="qwen2.5-7b,gpt-j-6B", help=f"of {', '.join(CONFIGS)} (%(default)s)")
    parser.add_argument("--methods", default="GRACE,CoachHook", help="of those with a shipped file (%(default)s)")
    parser.add_argument("--edits", type=int, default=8, help="edits in one call (default %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of the model (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=20000, help="tokens for the second moments (%(default)s)")
    parser.add_argument("--steps", type=int, help="optimisation steps of an edit, instead of the file's")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, instead of SmolLM2's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every model with every method."""
    options, console = arguments(argv), Console(width=140)
    unknown = set(options.models.split(",")) - CONFIGS.keys()
    if unknown:
        return stop(f"no such models: {', '.join(sorted(unknown))}. Choose from {', '.join(CONFIGS)}.")
    facts = machine()
    console.print(describe(facts))
    device = torch.device(options.device)
    clock, rows = Clock(device), list[dict[str, Any]]()
    try:
        tokenizer = (
            AutoTokenizer.from_pretrained(options.tokenizer)
            if options.tokenizer
            else load_model("smollm2-135m", "cpu")[1]
        )
        requests = read_requests(SAMPLE, read_json)[: options.edits]
        for name in options.models.split(","):
            model = random_model(CONFIGS[name], device, getattr(torch, options.dtype))
            size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / GIB
            for method in options.methods.split(","):
                hparams = hyperparameters(method, name, options.dtype, len(requests), options.tokens, options.steps)
                row = measure(model, tokenizer, method, hparams, requests, clock)
                rows.append({"model": name, "method": method, "gib_model": size, **row})
                console.print(rows[-1])
            del model
    except LifelongError as error:
        return stop(error)
    console.print(table(rows))
    sys.stdout.flush()
    sys.stdout.write(
        json.dumps({"name": "large_models", "edits": len(requests), "rows": rows, "machine": facts}) + "\n"
    )
    return 0


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay the measurements out, one model and method in a row."""
    result = Table(
        "model", "method", "GiB", "s/edit", "steps", "GiB more", "ms base", "ms edited", "restored", box=box.SIMPLE
    )
    for row in rows:
        numbers = ("seconds_per_edit", "steps", "gib_beyond_model", "forward_ms_base", "forward_ms_edited")
        shown = [f"{row[name]:.2f}" for name in numbers]
        result.add_row(row["model"], row["method"], f"{row['gib_model']:.1f}", *shown, str(row["restored_bitwise"]))
    return result


if __name__ == "__main__":
    sys.exit(main())
