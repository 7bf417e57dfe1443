"""Edits of models of published shapes: seconds, memory, generation with and without edits, and the rollback."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _clock import Clock
from _gpu_methods import METHODS, Effort, MethodRun, Target
from _gpu_report import Section
from _gpu_small import ROUNDING, check_rollback, difference, next_token_logits
from _machine import median
from _random_models import CONFIGS, SMALL_CONFIGS, RandomLanguage, random_model

from easyedit_lifelong import collect_covariance
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.fingerprint import model_fingerprint

GRACE_GOAL = 0.1
"""Seconds an edit of GRACE that this project aims at for 8 billion parameters."""


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
        edits: edits in one call.
        new_tokens: tokens that a generation makes.
        batches: numbers of prompts that are generated for at once.
        runs: runs of every measurement of generation; the median counts.
    """

    edits: int
    new_tokens: int
    batches: tuple[int, ...]
    runs: int


@dataclass(frozen=True)
class LargeModel:
    """A large model and its measurements.

    Attributes:
        name: the name of its configuration.
        dtype: its dtype.
        device: its device.
        folder: a folder for second moments.
        effort: how much an edit computes.
        amounts: how much is measured.
        dry: whether the small model of the same family takes its place.
    """

    name: str
    dtype: torch.dtype
    device: torch.device
    folder: Path
    effort: Effort
    amounts: Amounts
    dry: bool

    @property
    def target(self) -> Target:
        """The model."""
        name, config = self.name, CONFIGS[self.name]
        if self.dry:
            name, config = f"small model for {name}", SMALL_CONFIGS[config.model_type]
        corpus, stats = self.folder / f"{name}.txt", self.folder / f"large-{self.dtype}"
        return Target(name, config, self.dtype, corpus, stats, self.effort)

    def run(self, section: Section) -> None:
        """Check and measure every method on this model."""
        target = self.target
        section.begin(str(target))
        bench = _Bench(self, target, section)
        for measure in (bench.measure_base, bench.measure_moments):
            with section.step(str(target)):
                measure()
        for run in METHODS:
            with section.step(f"{run.name}, {target}"):
                bench.measure_method(run)


class _Bench:
    """A large model on its device.

    Args:
        plan: what to measure.
        target: the model.
        section: gets the checks and figures.
    """

    def __init__(self, plan: LargeModel, target: Target, section: Section) -> None:
        self.plan, self.target, self.section, self.clock = plan, target, section, Clock(plan.device)
        target.write_corpus()
        language = RandomLanguage(target.config.vocab_size)
        self.tokenizer = language.tokenizer()
        self.facts, self.warm_up = language.facts(plan.amounts.edits), language.facts(2 + plan.amounts.edits, seed=3)
        self.others = language.prompts(plan.amounts.edits)
        self.model = random_model(target.config, plan.device, plan.dtype)
        self.before = model_fingerprint(self.model), self.logits(self.prompts)

    @property
    def prompts(self) -> list[str]:
        """The prompts of the facts, and prompts that no fact is about."""
        return [*(fact["prompt"] for fact in self.facts), *self.others]

    def logits(self, prompts: list[str]) -> torch.Tensor:
        """Return the next-token logits of prompts."""
        return next_token_logits(self.model, self.tokenizer, prompts)

    def measure_base(self) -> None:
        """Measure the size of the model, and the speed of its generation."""
        size = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        self.section.figure("model", size / 2**30, "GiB")
        for batch in self.plan.amounts.batches:
            self._tokens_per_second(batch)  # loads kernels, and lets the clocks rise
        for batch in self.plan.amounts.batches:
            self.section.figure(f"generation, batch of {batch}", self._tokens_per_second(batch), "tokens/s")

    def measure_moments(self) -> None:
        """Measure the collection of the second moments that later methods use, the files included."""

        def collect() -> None:
            paths: list[int | str] = [self.target.paths.down.format(layer) for layer in self.target.layers]
            tokens = self.target.moment_tokens
            collect_covariance(
                self.model, self.tokenizer, paths, self.target.corpus, tokens=tokens, out=self.target.stats
            )

        seconds, gib, _ = self.clock.measure(collect)
        layers = len(self.target.layers)
        self.section.figure(f"second moments of {layers} layers", self.target.moment_tokens / seconds, "tokens/s")
        self._memory("second moments: beyond the model", gib)

    def measure_method(self, run: MethodRun) -> None:
        """Edit, measure, roll back, and check that the model is bitwise what it was."""
        section, hparams, entry = self.section, run.hparams(self.target, len(self.facts)), run.entry
        if entry.prepare is not None:
            seconds, _, _ = self.clock.measure(lambda: entry.prepare(self.model, self.tokenizer, hparams, None))
            section.figure("preparation", seconds, "s")
        with contextlib.ExitStack() as undoing:  # also if a measurement fails
            # The first edit loads kernels and computes what the editor keeps, such as contexts and factorisations. The
            # first call with several edits loads other kernels.
            first, _, (_, rollback) = self._edit(entry, self.warm_up[:1], hparams)
            undoing.callback(rollback)
            _, _, (_, rollback) = self._edit(entry, self.warm_up[2:], hparams)
            undoing.callback(rollback)
            alone, _, (_, rollback) = self._edit(entry, self.warm_up[1:2], hparams)
            undoing.callback(rollback)
            held = self.clock.allocated()
            seconds, gib, (_, rollback) = self._edit(entry, self.facts, hparams)
            undoing.callback(rollback)
            edits, results = len(self.facts), rollback.results
            goal = GRACE_GOAL if (run.name, self.target.name) == ("GRACE", "llama3-8b") else None
            section.figure("first edit", first, "s")
            section.figure("edit, alone", alone, "s", goal)
            section.figure(f"edit, {edits} in one call", seconds / edits, "s")
            section.figure("steps of an edit", sum(result.steps for result in results) / edits, "")
            section.figure("learned", sum(result.learned for result in results) / edits, "share of edits")
            self._memory("editing: beyond the model", gib)
            self._memory("kept by the edits", self.clock.allocated() - held)
            self._check_edited(run)
            speeds = self._speeds() if run.adds_hooks else {}
        if speeds:
            self._compare_speeds(speeds)
        check_rollback(section, self.model, self.before, self.logits(self.prompts))

    def _memory(self, name: str, gib: float) -> None:
        if self.clock.counts_memory:
            self.section.figure(name, gib, "GiB")

    def _edit(self, entry: EditMethod, facts: list[dict[str, Any]], hparams: Any) -> tuple[float, float, Any]:
        return self.clock.measure(lambda: entry.apply(self.model, self.tokenizer, facts, hparams))

    def _check_edited(self, run: MethodRun) -> None:
        """Check the answers of the edited model."""
        logits, count = self.logits(self.prompts), len(self.facts)
        before = self.before[1]
        self.section.check("logits are finite", bool(logits.isfinite().all()))
        changed = difference(logits[:count], before[:count])
        self.section.check("edits change the answers", changed > ROUNDING[torch.float32], f"(difference {changed:.2g})")
        if run.local:
            same = torch.equal(logits[count:], before[count:])
            self.section.check("other prompts: bitwise unchanged", same)

    def _compare_speeds(self, edited: dict[int, float]) -> None:
        """Measure generation without edits right after that with edits, so that both have the same clocks."""
        for batch, unedited in self._speeds().items():
            self.section.figure(f"generation, batch of {batch}", edited[batch], "tokens/s")
            self.section.figure(f"… unedited / edited, batch of {batch}", unedited / edited[batch], "")

    def _speeds(self) -> dict[int, float]:
        return {batch: self._tokens_per_second(batch) for batch in self.plan.amounts.batches}

    def _tokens_per_second(self, batch: int) -> float:
        """Return the speed of greedy generation, the pass over the prompts included."""
        amounts = self.plan.amounts
        prompts = (self.others * batch)[:batch]
        encoded = self.tokenizer(prompts, return_tensors="pt", padding=True)
        options: dict[str, Any] = {
            "input_ids": encoded.input_ids.to(self.plan.device),
            "attention_mask": encoded.attention_mask.to(self.plan.device),
            "min_new_tokens": amounts.new_tokens,
            "max_new_tokens": amounts.new_tokens,
            "do_sample": False,
            "pad_token_id": self.tokenizer.pad_token_id,
        }

        def generate() -> None:
            self.model.generate(**options)

        generate()
        seconds = median(self.clock.measure(generate)[0] for _ in range(amounts.runs))
        return batch * amounts.new_tokens / seconds
