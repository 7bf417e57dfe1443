"""Check on a GPU that edits are right, and measure what they cost: one script of at most eight minutes.

    python benchmarks/gpu.py --out gpu.json

It needs nothing but this package: models have random weights, and a tokenizer of made-up words. Small models are edited
on the CPU and on the GPU by six methods, and compared. Models of the shapes of GPT2-XL and Llama-3-8B, in bfloat16 and
float32, are edited, timed and rolled back (80 GB of GPU memory). The exit status is 1 if a check fails. A section whose
time is over is cut, and reported as such. ``--dry`` runs all of it on small models on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from _gpu_large import Amounts, LargeModel
from _gpu_lookup import LookupSizes, compare_with_decoding, lookups
from _gpu_methods import Effort
from _gpu_report import Report, SectionPlan, run_sections
from _gpu_small import Small, against_cpu, compiled_generation, over_two_devices
from _machine import describe, machine, stop
from rich.console import Console

from easyedit_lifelong.errors import DeviceError, NotLearnedWarning
from easyedit_lifelong.models.devices import resolve_device

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
SMALL_MODELS = [("llama", FLOAT32), ("gpt2", FLOAT32), ("llama", BFLOAT16), ("gpt2", BFLOAT16)]
DRY_MODELS = [("llama", FLOAT32), ("gpt2", BFLOAT16)]
SMALL_EFFORT = Effort(value_steps=20, target_steps=8, contexts=[[4, 2]], layers=2)
DRY_EFFORT = Effort(value_steps=6, target_steps=3, contexts=[[2, 1]], layers=2)
LARGE_EFFORT = Effort(value_steps=50, target_steps=20, contexts=[[10, 5]], layers=2)
LARGE_AMOUNTS = Amounts(edits=8, new_tokens=16, batches=(1, 8), runs=3)
DRY_AMOUNTS = Amounts(edits=2, new_tokens=2, batches=(1, 2), runs=1)
LOOKUPS = LookupSizes(keys=(1_000, 10_000, 100_000, 1_000_000), wide=14336, narrow=4096, runs=5)
DRY_LOOKUPS = LookupSizes(keys=(10, 100, 1_000), wide=32, narrow=32, runs=1)


def sections(device: torch.device, folder: Path, dry: bool) -> list[SectionPlan]:
    """Return the sections in the order in which they run, with their shares of the time.

    Args:
        device: the device under test.
        folder: an empty folder for texts and second moments.
        dry: whether small models take the place of all others.
    """
    small = Small(device, folder, DRY_EFFORT, DRY_MODELS) if dry else Small(device, folder, SMALL_EFFORT, SMALL_MODELS)
    effort, amounts = (DRY_EFFORT, DRY_AMOUNTS) if dry else (LARGE_EFFORT, LARGE_AMOUNTS)

    def large(name: str, dtype: torch.dtype, share: float) -> SectionPlan:
        model = LargeModel(name, dtype, device, folder, effort, amounts, dry)
        return SectionPlan(str(model.target), model.run, share)

    plans = [
        SectionPlan("small models against the CPU", partial(against_cpu, small=small), 1.5),
        SectionPlan("two devices", partial(over_two_devices, small=small), 0.5),
        SectionPlan("compiled generation", partial(compiled_generation, small=small), 1),
        SectionPlan("lookups", partial(lookups, device=device, sizes=DRY_LOOKUPS if dry else LOOKUPS), 0.5),
        large("llama3-8b", BFLOAT16, 2),
        SectionPlan("lookups and decode steps", compare_with_decoding, 0.1),
        large("gpt2-xl", FLOAT32, 1),
    ]
    if not dry:  # every family has been edited in both dtypes by then
        plans += [large("gpt2-xl", BFLOAT16, 1), large("llama3-8b", FLOAT32, 2)]
    return plans


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=420, help="time for all sections (default %(default)g)")
    parser.add_argument("--out", type=Path, help="JSON file of all checks and figures, rewritten after every step")
    parser.add_argument("--device", default="cuda", help="the device under test (default %(default)s)")
    parser.add_argument("--dry", action="store_true", help="run everything on small models on the CPU")
    options = parser.parse_args(argv)
    if options.seconds <= 0:
        parser.error("--seconds must be more than 0")
    if options.out is not None and not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run all sections. Return 1 if a check fails, 2 if the machine lacks the device."""
    options, console = arguments(argv), Console(width=140, highlight=False)
    if options.dry:
        options.device = "cpu"
    try:
        device = resolve_device(options.device)
    except DeviceError as error:
        return stop(f"{error} --dry runs everything on small models on the CPU.")
    facts = machine()
    console.print(describe(facts), markup=False)
    report = Report(console, options.out, {"dry": options.dry, "seconds": options.seconds, "machine": facts})
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotLearnedWarning)  # the figures say how many edits are learned
        run_sections(sections(device, Path(folder), options.dry), options.seconds, report)
    report.print_tables()
    report.print_line()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
