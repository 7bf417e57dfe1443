"""Save very many edits of GRACE, open the folder in a new process, and measure memory and time.

    python benchmarks/many_edits.py --edits 1000000

The keys are activations at the last tokens of prompts, with noise; the values are random. The folder is opened in a new
process. There, the passes of 8 prompts alternate with those of the unedited model, and edits with edits beside
``--few`` others. Then lookups are compared with brute force over all keys. At last, one edit is made and saved to the
folder.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _machine import alternate, describe, finish, machine, median
from torch import Tensor

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, load_edits, load_model, save_edits
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.lazy_list import LazyList
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.modules import find_module

BATCH = 8
"""Prompts of a pass."""

NOISE = 0.15
"""Length of the noise in keys, relative to the activation's."""

BLOCK = 1 << 14
"""Keys that are made or compared at once."""


def make_folder(folder: Path, count: int, hparams: GraceHyperParams) -> None:
    """Save a folder of ``count`` edits, each of which has its own key."""
    model, tokenizer = load_model(hparams.model_name, "cpu", "float32")
    requests = sample_requests()
    texts = [text for request in requests[BATCH:] for text in (request.prompt, *request.rephrase_prompts)]
    known = layer_inputs(model, tokenizer, hparams, texts)
    apply_grace_to_model(model, tokenizer, [requests[0]], hparams)
    (editor,) = GraceEditor.all_of(model).values()
    codebook, record, random = editor.codebook, editor.records[0], torch.Generator().manual_seed(0)
    assert codebook is not None
    widths = {"keys": codebook.key_width, "values": codebook.values.shape[1]}
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        tensors = {  # in files, so that they take no memory
            name: torch.from_file(f"{scratch}/{name}", shared=True, size=count * width).view(count, width)
            for name, width in widths.items()
        }
        for keys, values in zip(tensors["keys"].split(BLOCK), tensors["values"].split(BLOCK), strict=True):
            chosen = known[torch.randint(len(known), (len(keys),), generator=random)]
            noise = torch.randn(keys.shape, generator=random)
            keys[:] = chosen + noise * (NOISE * chosen.norm(dim=1) / noise.norm(dim=1)).unsqueeze(1)
            values[:] = torch.randn(values.shape, generator=random)
        codebook.adopt(tensors | {"radii": torch.full((count,), codebook.eps)}, LazyList(count, lambda n: (n % 997, 7)))
        editor.changes = LazyList(count, Change)
        editor.records = LazyList(
            count, lambda n: replace(record, case_id=n, prompt=f"The capital of the country with the number {n} is")
        )
        save_edits(model, folder)


def sample_requests() -> list[EditRequest]:
    """Return the sample facts: the first are the prompts of passes and edits, the others the texts of the keys."""
    return read_requests(COUNTERFACT, read_json)


def layer_inputs(model: Any, tokenizer: Any, hparams: GraceHyperParams, texts: list[str]) -> Tensor:
    """Return the edited layer's inputs at the last token of each text, shape ``(texts, width)``."""
    inputs: list[Tensor] = []
    _, layer = find_module(model, hparams.inner_params[0])
    handle = layer.register_forward_hook(lambda _, args, __: inputs.append(args[0][0, -1:]))
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt"))
    handle.remove()
    return torch.cat(inputs)


def resident() -> dict[str, int]:
    """Return the resident memory of this process in bytes: private (``anon``), and of mapped files (``file``)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Rss")}
    return {"anon": sizes["RssAnon"], "file": sizes["RssFile"]}


def measure(folder: Path, few_folder: Path, hparams: GraceHyperParams, runs: int) -> dict[str, Any]:
    """Open a folder, and measure what it costs; see the module's docstring."""
    model, tokenizer = load_model(hparams.model_name, "cpu", "float32")
    base, few = copy.deepcopy(model), copy.deepcopy(model)
    load_edits(few, few_folder, tokenizer)
    tokenizer.padding_side = "left"
    prompts = [request.prompt for request in sample_requests()[:BATCH]]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    run_pass(base, batch)
    before, start = resident(), time.perf_counter()
    load_edits(model, folder, tokenizer)
    opened, after_opening = time.perf_counter() - start, resident()
    (editor,) = GraceEditor.all_of(model).values()
    codebook = editor.codebook
    assert codebook is not None
    times: dict[str, list[float]] = {"base": [], "pass": [], "edit_few": [], "edit": []}
    alternate(runs + 1, timed(times["base"], run_pass, base, batch), timed(times["pass"], run_pass, model, batch))
    after_passes = resident()
    alternate(
        runs + 1,
        timed(times["edit_few"], run_edit, few, tokenizer, hparams),
        timed(times["edit"], run_edit, model, tokenizer, hparams),
    )
    after_edits = resident()
    is_exact = equals_brute_force(codebook, layer_inputs(base, tokenizer, hparams, prompts))
    apply_grace_to_model(model, tokenizer, [sample_requests()[0]], hparams)
    start = time.perf_counter()
    save_edits(model, folder)
    appended = time.perf_counter() - start
    first = {name: values[0] for name, values in times.items()}
    ratios = {
        "pass": median(a / b for a, b in zip(times["pass"][1:], times["base"][1:], strict=True)),
        "edit": median(a / b for a, b in zip(times["edit"][1:], times["edit_few"][1:], strict=True)),
    }
    count = len(editor.records)
    return {
        "edits": count,
        "open_seconds": opened,
        "append_seconds": appended,
        **{f"{name}_seconds": median(values[1:]) for name, values in times.items()},
        "first_seconds": first,
        "ratios": ratios,
        "bytes_an_edit": {
            name: {kind: round((size[kind] - before[kind]) / count) for kind in size}
            for name, size in (("opened", after_opening), ("passes", after_passes), ("edits", after_edits))
        },
        "equal_to_brute_force": is_exact,
    }


def timed(times: list[float], function: Callable[..., None], *arguments: Any) -> Callable[[int], None]:
    """Return a function of a run's number that appends the seconds of a call to ``times``."""

    def run(number: int) -> None:
        start = time.perf_counter()
        function(*arguments, *([number] if function is run_edit else []))
        times.append(time.perf_counter() - start)

    return run


@torch.no_grad()
def run_pass(model: Any, batch: Any) -> None:
    """Run a forward pass."""
    model(**batch)


def run_edit(model: Any, tokenizer: Any, hparams: GraceHyperParams, number: int) -> None:
    """Make an edit and roll it back."""
    request = sample_requests()[number % BATCH]
    _, rollback = apply_grace_to_model(model, tokenizer, [request], hparams)
    rollback()


@torch.no_grad()
def equals_brute_force(codebook: Codebook, far: Tensor) -> bool:
    """Return whether lookups of distant queries, and of queries near keys, are those of a comparison with all keys."""
    keys = codebook.keys
    near = keys[torch.linspace(0, len(keys) - 1, 24).long()]
    shifts = torch.randn(near.shape, generator=torch.Generator().manual_seed(1))
    shifts *= codebook.eps * (torch.arange(24) % 4 / 2 / shifts.norm(dim=1)).unsqueeze(1)  # 0 to 1.5 radii
    queries = torch.cat([far, near + shifts])
    best = torch.full((len(queries),), float("inf"))
    index = torch.zeros(len(queries), dtype=torch.long)
    for begin in range(0, len(keys), BLOCK):
        block = torch.cdist(queries, keys[begin : begin + BLOCK], compute_mode="donot_use_mm_for_euclid_dist")
        distance, nearest = block.min(dim=1)
        index = torch.where(distance < best, nearest + begin, index)
        best = torch.minimum(distance, best)
    matched = best <= codebook.radii[index] + codebook.rounding * queries.norm(dim=1)
    return bool((codebook.lookup(queries) == torch.where(matched, index, -1)).all())


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--edits", type=int, default=100_000, help="edits in the folder (default %(default)s)")
    parser.add_argument("--few", type=int, default=1000, help="edits beside which an edit is compared (%(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="runs of each side (default %(default)s)")
    parser.add_argument("--hparams", default="GRACE/smollm2-135m", help="model and layer, dist_fn: euc (%(default)s)")
    parser.add_argument("--folder", type=Path, help="parent of the folders; folders that are there are used again")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the benchmark."""
    options = arguments()
    hparams = GraceHyperParams.from_hparams(options.hparams)
    with tempfile.TemporaryDirectory() as temporary:
        parent = options.folder or Path(temporary)
        folders = {count: parent / f"edits-{count}" for count in (options.edits, options.few)}
        if options.measure:
            result = measure(*folders.values(), hparams, options.runs)
            finish("many_edits", ours=result["pass_seconds"], theirs=result["base_seconds"], unit="s a pass", **result)
            return 0
        for count, folder in folders.items():
            if not folder.exists():
                make_folder(folder, count, hparams)
        command = [sys.executable, __file__, "--measure", "--folder", str(parent), *sys.argv[1:]]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    sizes = ", ".join(f"{name}: {size['anon']} + {size['file']}" for name, size in result["bytes_an_edit"].items())
    sys.stdout.write(
        f"{describe(machine())}\n{result['edits']:,} edits, opened in {result['open_seconds']:.2f} s; "
        f"one more edit saved in {result['append_seconds']:.3f} s\n"
        f"bytes an edit, in memory + of the mapped file: {sizes}\n"
        f"a pass takes {result['ratios']['pass']:.3f} times the unedited model's\n"
        f"an edit takes {result['ratios']['edit']:.3f} times one beside {options.few:,}\n"
        f"equal to brute force: {result['equal_to_brute_force']}\n{output}"
    )
    return 0 if result["equal_to_brute_force"] else 1


if __name__ == "__main__":
    sys.exit(main())
