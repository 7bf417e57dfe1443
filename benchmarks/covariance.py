"""Compare second moments by EasyEdit's ``layer_stats`` and by ours: microseconds per token and layer.

    python benchmarks/covariance.py [--upstream PATH_OF_AN_EASYEDIT_CHECKOUT] [--corpus FILE]

Both sides read the same documents, alternately in one process, and write the same files. EasyEdit makes a pass over the
corpus for every layer, ours makes one for all layers. Without ``--upstream``, the installed EasyEdit release is used.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _machine import alternate, describe, finish, machine, median, stop
from rich.console import Console
from rich.table import Table

from easyedit_lifelong import load_model
from easyedit_lifelong.bridge import find_easyedit, install
from easyedit_lifelong.covariance import collect_covariance
from easyedit_lifelong.covariance.blocks import Amount, Position
from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.covariance.key_modules import layer_modules
from easyedit_lifelong.covariance.npz import read_moments
from easyedit_lifelong.covariance.sampling import SampledPlan
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.number_ranges import parse_layers

NAME = "wikitext"
"""The corpus name under which EasyEdit gets the texts; it accepts no other names."""


@dataclass
class Side:
    """The measurements of one side, one entry for each run; ``cpu`` counts all threads of this process."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], None]) -> None:
        """Time one run."""
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self.seconds.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


class Comparison:
    """Both sides of the comparison, on one model and the same texts.

    Args:
        layer_stats: EasyEdit's module ``layer_stats``.
        model: the model.
        tokenizer: its tokenizer.
        modules: paths of the modules.
        texts: the documents.
        folder: both sides write into it.
    """

    def __init__(
        self, layer_stats: Any, model: Any, tokenizer: Any, modules: Sequence[str], texts: Sequence[str], folder: Path
    ) -> None:
        self.layer_stats, self.model, self.tokenizer = layer_stats, model, tokenizer
        self.modules, self.texts, self.folder = list(modules), list(texts), folder
        self.ours, self.theirs = Side("ours"), Side("EasyEdit")
        records = [{"text": text} for text in self.texts]
        layer_stats.load_dataset = lambda *_: {"train": records}

    def run_ours(self, run: int) -> None:
        """Time our collection of all layers, files included."""

        def collect() -> None:
            collect_covariance(
                self.model,
                self.tokenizer,
                self.modules,
                self.texts,
                samples=len(self.texts),
                out=self.folder / f"ours{run}",
            )

        self.ours.time(collect)

    def run_theirs(self, run: int) -> None:
        """Time EasyEdit's collection of all layers, files included."""
        device = next(self.model.parameters()).device
        hparams = SimpleNamespace(device=device.index or 0 if device.type == "cuda" else device.type)

        def collect() -> None:
            for module in self.modules:
                with contextlib.redirect_stdout(io.StringIO()):
                    self.layer_stats.layer_stats(
                        self.model,
                        self.tokenizer,
                        module,
                        self.folder / f"theirs{run}",
                        NAME,
                        ["mom2"],
                        sample_size=len(self.texts),
                        precision="float32",
                        hparams=hparams,
                        progress=lambda x, **_: x,
                    )

        self.theirs.time(collect)

    def largest_difference(self, run: int) -> tuple[float, int]:
        """Return the largest difference of the sides' matrices, relative to their diagonal, and the number of tokens.

        Raises:
            LifelongError: the sides counted different numbers of tokens.
        """
        worst, count = 0.0, 0
        for module in self.modules:
            paths = [next((self.folder / f"{side}{run}").rglob(f"{module}_*.npz")) for side in ("ours", "theirs")]
            ours, theirs = (read_moments(path) for path in paths)
            if ours.count != theirs.count:
                raise LifelongError(f"{module}: ours counted {ours.count} tokens, EasyEdit {theirs.count}")
            scale = theirs.moment.diagonal().sqrt()
            error = (ours.moment - theirs.moment).abs() / (scale[:, None] * scale[None, :] + 1e-30)
            worst, count = max(worst, float(error.max())), ours.count
        return worst, count


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upstream", type=Path, help="checkout of EasyEdit (default: the installed release)")
    parser.add_argument("--model", default="smollm2-135m", help="model (default %(default)s)")
    parser.add_argument("--layers", default="3-7", help="layers (default %(default)s)")
    parser.add_argument("--corpus", help="file or folder of texts (default: texts sampled from the model)")
    parser.add_argument("--samples", type=int, default=24, help="how many documents (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default %(default)s)")
    parser.add_argument("--device", help="the model's device")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args(argv)
    for name in ("samples", "runs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def easyedit_layer_stats(path: Path | None) -> Any:
    """Return EasyEdit's module ``layer_stats``, from a checkout or from the installed package.

    Raises:
        LifelongError: there is no EasyEdit.
    """
    if path is not None:
        if not (path / "easyeditor").is_dir():
            raise LifelongError(f"{path}: not a checkout of EasyEdit: it has no folder easyeditor")
        sys.path.insert(0, str(path))
    if find_easyedit() is None:
        raise LifelongError("EasyEdit isn't installed. Run: pip install --no-deps easyeditor==0.0.1.dev0")
    install()
    return importlib.import_module("easyeditor.models.rome.layer_stats")


def documents(options: argparse.Namespace, model: Any, tokenizer: Any) -> list[str]:
    """Return documents spread over the corpus or, without one, texts of one to five sampled rows."""
    if options.corpus is not None:
        corpus = find_corpus(options.corpus).open()
        step = max(1, len(corpus) // options.samples)
        return [corpus[index] for index in range(0, len(corpus), step)][: options.samples]
    plan = SampledPlan(model, tokenizer, Amount(samples=3 * options.samples + 5), 128, seed=0)
    rows = [tokenizer.decode(row) for block in plan.blocks(Position()) for row in block.rows()]
    texts, taken = [], 0
    for number in range(options.samples):
        length = 1 + number % 5
        texts.append("".join(rows[taken : taken + length]))
        taken += length
    return texts


def report(console: Console, comparison: Comparison, difference: float, tokens: int) -> dict[str, Any]:
    """Print a table of both sides, and return the figures for the JSON object."""
    table = Table(box=None, pad_edge=False)
    for header in ("side", "seconds (median)", "minimum", "maximum", "µs per token and layer", "CPU seconds"):
        table.add_column(header, justify="left" if header == "side" else "right")
    work = tokens * len(comparison.modules)
    for side in (comparison.theirs, comparison.ours):
        middle = median(side.seconds)
        table.add_row(
            side.name,
            f"{middle:.1f}",
            f"{min(side.seconds):.1f}",
            f"{max(side.seconds):.1f}",
            f"{1e6 * middle / work:.1f}",
            f"{median(side.cpu):.1f}",
        )
    console.print(table)
    ratio = median(comparison.theirs.seconds) / median(comparison.ours.seconds)
    console.print(f"{ratio:.2f} times faster; matrices differ by at most {difference:.1e} of their diagonal")
    return {
        "ours": 1e6 * median(comparison.ours.seconds) / work,
        "theirs": 1e6 * median(comparison.theirs.seconds) / work,
        "cpu_ratio": round(median(comparison.theirs.cpu) / median(comparison.ours.cpu), 3),
        "largest_difference": difference,
        "tokens": tokens,
        "layers": len(comparison.modules),
        "runs": len(comparison.ours.seconds),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    options = arguments(argv)
    console = Console(highlight=False)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        layer_stats = easyedit_layer_stats(options.upstream)
        model, tokenizer = load_model(options.model, options.device)
        modules = layer_modules(model, parse_layers(options.layers))
        texts = documents(options, model, tokenizer)
        console.print(describe(machine()))
        console.print(
            f"{options.model}, {len(modules)} layers, {len(texts)} documents, {options.runs} runs of each side"
        )
        with tempfile.TemporaryDirectory() as folder:
            comparison = Comparison(layer_stats, model, tokenizer, modules, texts[:1], Path(folder))
            comparison.run_theirs(-1)  # untimed, for one-time costs
            comparison.run_ours(-1)
            comparison = Comparison(layer_stats, model, tokenizer, modules, texts, Path(folder))
            alternate(options.runs, comparison.run_ours, comparison.run_theirs)
            difference, tokens = comparison.largest_difference(0)
    except LifelongError as error:
        return stop(error)
    figures = report(console, comparison, difference, tokens)
    finish("covariance", unit="µs per token and layer", model=options.model, **figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
