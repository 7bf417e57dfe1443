"""Measure GRACE's codebook: lookups by number of keys, passes of an edited model, and the 10,000th edit.

    python benchmarks/codebook.py [--parts lookup,passes,edits] [--keys 100,1000,10000,100000]

Lookups are compared with brute force (all distances) on the same codebook and queries, and the results must agree.
Passes are compared with those of the unedited model, and an edit into a codebook of 10,000 keys with the same edit
into one of 10. All sides run alternately. Keys are the edited layer's inputs over sample texts, plus noise, or random
vectors.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from _lookup import Times, compare_lookups
from _machine import alternate, describe, finish, machine, median, stop
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from easyedit_lifelong import GraceHyperParams, load_model
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.methods.grace.adaptor import GraceAdaptor
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.modules import find_module

PARTS = ("lookup", "passes", "edits")
BATCH = 8
DECODED = 8
"""Number of tokens that a run generates."""

NOISE = 0.15
"""Length of the noise on a key, relative to the key: several times the shipped radius."""

FEW, MANY = 10, 10_000
"""Numbers of keys before the two edits that are compared."""


class Bench:
    """A model, and keys like the inputs of its edited layer.

    Args:
        options: the command line's options.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.hparams = GraceHyperParams.from_hparams(options.hparams)
        self.runs = options.runs
        self.model, self.tokenizer = load_model(self.hparams.model_name, options.device, options.dtype)
        self.path, self.layer = find_module(self.model, self.hparams.inner_params[0])
        self.requests = read_requests(COUNTERFACT, read_json)
        self.queries = self._inputs([request.prompt for request in self.requests[:BATCH]], last=True)
        texts = [f"{r.prompt} {r.target_new}. {' '.join(r.rephrase_prompts)}" for r in self.requests[BATCH:]]
        self._known = self._inputs(texts, last=False)
        self._random = torch.Generator().manual_seed(0)

    def codebook(self, count: int, kind: str) -> Codebook:
        """Return a codebook of ``count`` keys of a kind, ``text`` or ``random``."""
        keys = torch.randn(count, self._known.shape[1], generator=self._random).to(self._known)
        if kind == "text":
            for block in keys.split(4096):  # in place, because a million keys take gigabytes
                chosen = self._known[torch.randint(len(self._known), (len(block),), generator=self._random)]
                block *= NOISE * chosen.norm(dim=1, keepdim=True) / block.norm(dim=1, keepdim=True)
                block += chosen
        keys = keys.to(self.model.dtype)  # the dtype of the layer's inputs
        radii, values = torch.full((count,), self.hparams.eps), torch.zeros(count, self._value_width)
        codebook = Codebook(
            keys.shape[1], self._value_width, eps=self.hparams.eps, dist_fn=self.hparams.dist_fn, device=keys.device
        )
        codebook.load_state_dict({"keys": keys, "values": values, "radii": radii})
        return codebook

    def _inputs(self, texts: Sequence[str], last: bool) -> Tensor:
        """Return the layer's inputs at every token of the texts, or at the last token only."""
        inputs: list[Tensor] = []

        def record(_: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs.append(args[0][0, -1:] if last else args[0][0])
            self._value_width = output.shape[-1]

        handle = self.layer.register_forward_hook(record)
        try:
            with torch.no_grad():
                for text in texts:
                    self.model(input_ids=self.tokenizer(text, return_tensors="pt").input_ids.to(self.model.device))
        finally:
            handle.remove()
        return torch.cat(inputs).float()


# ------------------------------------------------------------------ lookups


def lookups(bench: Bench, sizes: Sequence[int], console: Console) -> list[dict[str, Any]]:
    """Compare lookups with brute force.

    Raises:
        LifelongError: the results differ.
    """
    table = Table("keys", "kind", "brute, ms", "ours, ms", "faster", "nearest, brute", "ours", "MB", box=box.SIMPLE)
    results = []
    for kind in ("text", "random"):
        for size in sizes:
            result = _lookup(bench, bench.codebook(size, kind), kind)
            results.append(result)
            table.add_row(
                f"{size:,}",
                kind,
                f"{1e3 * result['theirs']:.2f}",
                f"{1e3 * result['ours']:.2f}",
                f"{result['theirs'] / result['ours']:.1f}",
                f"{1e3 * result['nearest_theirs']:.2f}",
                f"{1e3 * result['nearest_ours']:.2f}",
                f"{result['bytes'] / 1e6:.1f}",
            )
    console.print(f"\nOne batch of {BATCH} queries, two of which match; and the nearest key of one distant query:")
    console.print(table)
    return results


def _lookup(bench: Bench, codebook: Codebook, kind: str) -> dict[str, Any]:
    far = bench.queries if kind == "text" else torch.randn_like(bench.queries)
    return {"kind": kind, **compare_lookups(codebook, far, bench.runs)}


# ------------------------------------------------------------------ an edited model's passes


def passes(bench: Bench, sizes: Sequence[int], console: Console) -> list[dict[str, Any]]:
    """Compare passes of a model with keys, none of which matches, with those of the unedited model."""
    books = {size: bench.codebook(size, "text") for size in sizes}
    for book in books.values():
        book.lookup(bench.queries)
    prompts, decoding = ({side: Times() for side in (0, *sizes)} for _ in range(2))

    def side(size: int) -> Callable[[int], None]:
        def run(number: int) -> None:
            with _with_codebook(bench, books.get(size)):
                _time_generation(
                    bench, prompts[size] if number >= 0 else Times(), decoding[size] if number >= 0 else Times()
                )

        return run

    sides = [side(size) for size in (0, *sizes)]
    alternate(bench.runs + 1, *[lambda n, run=run: run(n - 1) for run in sides])  # the first isn't timed
    table = Table("keys", "prompt, ms", "ratio", "in CPU time", "step, ms", "ratio", "in CPU time", box=box.SIMPLE)
    results = []
    for size in (0, *sizes):
        first, later = prompts[size], decoding[size]
        more = {"prompt": first.over(prompts[0]), "step": later.over(decoding[0])}
        results.append({"keys": size, "prompt_seconds": median(first.wall), "step_seconds": median(later.wall), **more})
        table.add_row(
            f"{size:,}",
            f"{1e3 * median(first.wall):.1f}",
            *(f"{part:.3f}" for part in more["prompt"].values()),
            f"{1e3 * median(later.wall):.2f}",
            *(f"{part:.3f}" for part in more["step"].values()),
        )
    console.print(
        f"\nA batch of {BATCH} prompts that no edit is about, {DECODED} new tokens; ratios to the unedited model:"
    )
    console.print(table)
    return results


@contextlib.contextmanager
def _with_codebook(bench: Bench, book: Codebook | None) -> Iterator[None]:
    if book is None:
        yield
        return
    adaptor = GraceAdaptor(bench.model, bench.layer, bench.hparams.replacement)
    try:
        adaptor.install(book)
        yield
    finally:
        adaptor.detach()


@torch.no_grad()
def _time_generation(bench: Bench, prompt: Times, decoding: Times) -> None:
    """Time the pass over a batch of prompts, and every decode step after it."""
    encoded = [bench.tokenizer(request.prompt).input_ids for request in bench.requests[:BATCH]]
    ids, mask = pad_rows(encoded, bench.tokenizer.pad_token_id or 0, "left", bench.model.device)
    with prompt.running():
        output = bench.model(input_ids=ids, attention_mask=mask, use_cache=True)
        token = output.logits[:, -1:].argmax(dim=-1)
    for _ in range(DECODED):
        mask = torch.cat([mask, mask.new_ones(BATCH, 1)], dim=1)
        with decoding.running():
            output = bench.model(input_ids=token, attention_mask=mask, past_key_values=output.past_key_values)
            token = output.logits[:, -1:].argmax(dim=-1)


# ------------------------------------------------------------------ the 10,000th edit


def edits(bench: Bench, console: Console) -> dict[str, Any]:
    """Compare an edit into a codebook of many keys with the same edit into a codebook of few keys."""
    editor = GraceEditor.on(bench.model, bench.tokenizer, bench.hparams)
    _, undo = editor.edit(bench.requests[:FEW])
    assert editor.codebook is not None
    few = editor.codebook.state_dict()
    filled = bench.codebook(MANY - len(editor.codebook), "text").state_dict()
    states = {FEW: few, MANY: {name: torch.cat([few[name], filled[name]]) for name in few}}
    times = {size: Times() for size in states}

    def side(size: int) -> Callable[[int], None]:
        def run(number: int) -> None:
            assert editor.codebook is not None
            editor.codebook.load_state_dict(states[size])
            editor.codebook.nearest(bench.queries[0])  # builds the search table, as edits one by one would have
            request: EditRequest = bench.requests[FEW + number % (len(bench.requests) - FEW)]
            with times[size].running():
                _, undo_edit = editor.edit([request])
            undo_edit()

        return run

    alternate(max(3, bench.runs), *[side(size) for size in states])
    undo()
    result = {"few": median(times[FEW].wall), "many": median(times[MANY].wall), **times[MANY].over(times[FEW])}
    console.print(
        f"\nAn edit into {FEW} keys: {result['few']:.3f} s; into {MANY:,}: {result['many']:.3f} s "
        f"(ratio {result['ratio']:.3f}; {result['cpu_ratio']:.3f} in CPU time)"
    )
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure (default %(default)s)")
    parser.add_argument("--keys", default="100,1000,10000,100000", help="sizes of codebooks (default %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="runs of each side (default %(default)s)")
    parser.add_argument("--hparams", default="GRACE/smollm2-135m", help="model and layer (default %(default)s)")
    parser.add_argument("--device", help="the model's device")
    parser.add_argument("--dtype", default="float32", help="dtype of the model and of its keys (default %(default)s)")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} isn't one of {', '.join(PARTS)}")
    try:
        options.keys = [int(size) for size in options.keys.split(",")]
    except ValueError:
        parser.error(f"--keys: {options.keys!r} isn't a list of numbers such as 100,1000")
    if options.runs < 1 or min(options.keys) < 3:
        parser.error("--runs must be at least 1, --keys at least 3")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options, console = arguments(argv), Console(highlight=False)
    if options.threads:
        torch.set_num_threads(options.threads)
    measured: dict[str, Any] = {}
    try:
        bench = Bench(options)
        console.print(describe(machine()))
        console.print(f"{bench.hparams.model_name}, {bench.path}, {options.runs} runs of each side")
        if "lookup" in options.parts:
            measured["lookup"] = lookups(bench, options.keys, console)
        if "passes" in options.parts:
            measured["passes"] = passes(bench, options.keys, console)
        if "edits" in options.parts:
            measured["edits"] = edits(bench, console)
    except LifelongError as error:
        return stop(error)
    if "lookup" in measured:
        largest = max((row for row in measured["lookup"] if row["kind"] == "text"), key=lambda row: row["keys"])
        ours, theirs, unit = largest["ours"], largest["theirs"], f"seconds a batch, {largest['keys']} keys"
    elif "passes" in measured:
        ours, theirs = (measured["passes"][n]["prompt_seconds"] for n in (-1, 0))
        unit = f"seconds a pass, {measured['passes'][-1]['keys']} keys"
    else:
        ours, theirs, unit = measured["edits"]["many"], measured["edits"]["few"], "seconds an edit"
    finish("codebook", ours=ours, theirs=theirs, unit=unit, runs=options.runs, **measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
