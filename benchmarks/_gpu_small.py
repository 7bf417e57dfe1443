"""Checks on small models: a device gives the results of the CPU, and edits follow the model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _gpu_methods import METHODS, PLAIN_HOOKS, REDUCED, Effort, MethodRun, Target
from _gpu_report import Section
from _random_models import SMALL_CONFIGS, RandomLanguage, random_model
from accelerate import dispatch_model
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import CompileConfig

from easyedit_lifelong import collect_covariance
from easyedit_lifelong.models.fingerprint import model_fingerprint

CPU = torch.device("cpu")
EDITS = 3
"""Edits in one call."""

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference of two devices' logits from one forward pass, relative to the norm of the logits."""

TRAINED = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""The same for edits that were optimised separately: rounding differs at each of their steps.

On a CPU, edits in float32 and in float64 differ by at most 7e-6, and edits in bfloat16 and in float32 by 0.06.
"""


@dataclass(frozen=True)
class Small:
    """The inputs of the checks on small models.

    Attributes:
        device: the device that is compared with the CPU.
        folder: a folder for second moments.
        effort: how much an edit computes.
        models: families and dtypes.
    """

    device: torch.device
    folder: Path
    effort: Effort
    models: Sequence[tuple[str, torch.dtype]]

    def target(self, family: str, dtype: torch.dtype) -> Target:
        """Return the small model of a family."""
        corpus, stats = self.folder / f"small-{family}.txt", self.folder / f"small-{dtype}"
        return Target(family, SMALL_CONFIGS[family], dtype, corpus, stats, self.effort)


class Models:
    """A model on the CPU, with a tokenizer and facts in its words.

    Args:
        target: the model.
    """

    def __init__(self, target: Target) -> None:
        target.write_corpus()
        language = RandomLanguage(target.config.vocab_size)
        self.target, self.tokenizer = target, language.tokenizer()
        self.facts, self.others = language.facts(EDITS), language.prompts(EDITS)
        self.base = random_model(target.config, CPU, target.dtype)

    def on(self, device: torch.device) -> Any:
        """Return a copy of the unedited model on a device."""
        return copy.deepcopy(self.base).to(device)

    def edit(self, run: MethodRun, model: Any) -> Any:
        """Edit a model; return the rollback."""
        return run.entry.apply(model, self.tokenizer, self.facts, run.hparams(self.target, EDITS))[1]

    def logits(self, model: Any, prompts: Sequence[str] | None = None) -> Tensor:
        """Return the next-token logits of prompts, by default of all facts and other prompts, in float32 on the CPU."""
        if prompts is None:
            prompts = [*(fact["prompt"] for fact in self.facts), *self.others]
        return next_token_logits(model, self.tokenizer, prompts)


@torch.no_grad()
def next_token_logits(model: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Return the logits of the token after each prompt, shape ``(prompts, vocabulary)``, in float32 on the CPU."""
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True).to(model.device)
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, -1]
    return logits.float().cpu()


def difference(logits: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to the norm of the expected logits."""
    return float((logits - expected).norm() / expected.norm())


def within(section: Section, name: str, logits: Tensor, expected: Tensor, limit: float) -> None:
    """Check that the relative difference of logits is at most a limit. NaN fails."""
    measured = difference(logits, expected)
    section.check(name, measured <= limit, f"(difference {measured:.2g}, limit {limit:g})")


def check_rollback(section: Section, model: Any, before: tuple[Any, Tensor], logits: Tensor) -> None:
    """Check that weights and logits are bitwise what they were: ``before`` has the fingerprint and the logits."""
    section.check("rollback restores the weights bitwise", model_fingerprint(model) == before[0])
    section.check("rollback restores the logits bitwise", torch.equal(logits, before[1]))


def against_cpu(section: Section, small: Small, methods: Iterable[MethodRun] = (REDUCED, *METHODS)) -> None:
    """Edit every small model on the CPU and on the device with every method, and compare."""
    for family, dtype in small.models:
        target = small.target(family, dtype)
        section.begin(str(target))
        models = Models(target)
        with section.step(f"second moments, {target}"):
            _compare_moments(section, models, small)
        for run in methods:
            with section.step(f"{run.name}, {target}"):
                _compare_edits(section, models, run, small.device)


def _compare_moments(section: Section, models: Models, small: Small) -> None:
    """Compare the second moments that the CPU and the device collect."""
    target, moments = models.target, []
    for name, device in (("cpu", CPU), ("device", small.device)):
        collected = collect_covariance(
            models.on(device),
            models.tokenizer,
            target.layers,
            target.corpus,
            tokens=target.moment_tokens,
            out=small.folder / f"moments-{name}-{target.name}-{target.dtype}",
        )
        moments.append(torch.stack([moment.moment for moment in collected.values()]))
    within(section, "the CPU's second moments", moments[1], moments[0], ROUNDING[target.dtype])


def _compare_edits(section: Section, models: Models, run: MethodRun, device: torch.device) -> None:
    """Check one method: the same edits on the CPU and the device, moves, answers to other prompts, and the rollback."""
    dtype, limit = models.target.dtype, ROUNDING[models.target.dtype]
    on_cpu, on_device = models.on(CPU), models.on(device)
    before = model_fingerprint(on_device), models.logits(on_device)
    models.edit(run, on_cpu)
    expected = models.logits(on_cpu)

    on_cpu.to(device)
    within(section, "edits move to the device", models.logits(on_cpu), expected, limit)
    on_cpu.to(CPU)
    section.check("edits move back bitwise", torch.equal(models.logits(on_cpu), expected))

    rollback = models.edit(run, on_device)
    logits = models.logits(on_device)
    within(section, "edits made on the device", logits, expected, TRAINED[torch.bfloat16 if run is REDUCED else dtype])
    section.check("edits change the answers", difference(logits, before[1]) > ROUNDING[torch.float32])
    if run.local:
        section.check("edits are learned", all(result.learned for result in rollback.results))
        others = models.logits(on_device, models.others)
        rollback()
        section.check("other prompts: bitwise unchanged", torch.equal(others, models.logits(on_device, models.others)))
    rollback()
    check_rollback(section, on_device, before, models.logits(on_device))


def over_two_devices(section: Section, small: Small) -> None:
    """Edit a model whose blocks are on two devices, and compare with one on one device.

    These are two GPUs if there are two; otherwise the second half of the blocks is offloaded: to the CPU if the device
    is a GPU, to disk if it is the CPU.
    """
    section.begin("two devices")
    models = Models(small.target("llama", torch.float32))
    if torch.cuda.device_count() > 1 and small.device.type == "cuda":
        second = "cuda:0" if small.device.index == 1 else "cuda:1"
    else:
        second = "cpu" if small.device.type == "cuda" else "disk"
    # Methods that write into weights need all of them in memory.
    for run in METHODS if second.startswith("cuda") else PLAIN_HOOKS:
        step = f"{run.name}, {models.target}, device_map: {small.device} and {second}"
        with section.step(step), tempfile.TemporaryDirectory() as offloaded:
            _compare_split(section, models, run, (str(small.device), second), offloaded)


def _compare_split(section: Section, models: Models, run: MethodRun, devices: tuple[str, str], folder: str) -> None:
    """Edit a model whose halves are on two devices, and one that is on the first device."""
    first, second = devices
    plain, split, blocks = models.on(torch.device(first)), models.on(CPU), models.target.block(1)
    places = {"model.embed_tokens": first, "model.rotary_emb": first, "model.norm": second, "lm_head": second}
    places |= {f"model.layers.{number}": first if 2 * number < blocks else second for number in range(blocks)}
    split = dispatch_model(split, places, main_device=first, offload_dir=folder)
    before = model_fingerprint(split), models.logits(split)
    within(section, "the unedited model", before[1], models.logits(plain), ROUNDING[torch.float32])
    models.edit(run, plain)
    rollback = models.edit(run, split)
    within(section, "the edited model", models.logits(split), models.logits(plain), TRAINED[torch.float32])
    rollback()
    check_rollback(section, split, before, models.logits(split))


def compiled_generation(section: Section, small: Small, tokens: int = 6) -> None:
    """Generate with a compiled forward pass before and after edits, and compare the tokens with those without it."""
    section.begin("compiled generation")
    models = Models(small.target("llama", torch.float32))
    # The backend that compiles for a GPU needs a C compiler, which a machine without a GPU need not have.
    config = CompileConfig(backend="inductor" if small.device.type == "cuda" else "eager")
    config._compile_all_devices = True
    compiled = {"cache_implementation": "static", "compile_config": config}
    batch = models.tokenizer([fact["prompt"] for fact in models.facts], return_tensors="pt", padding=True)
    options = {
        "input_ids": batch.input_ids.to(small.device),
        "attention_mask": batch.attention_mask.to(small.device),
        "max_new_tokens": tokens,
        "do_sample": False,
        "pad_token_id": models.tokenizer.pad_token_id,
    }
    model = models.on(small.device)
    base = model.generate(**options)
    torch._dynamo.reset()
    counters.clear()
    with section.step(f"unedited, {models.target}"):
        section.check("the same tokens", torch.equal(model.generate(**options, **compiled), base))
        section.check("the forward pass is compiled", counters["frames"]["ok"] > 0)
    for run in PLAIN_HOOKS:
        with section.step(f"{run.name}, {models.target}"):
            rollback = models.edit(run, model)
            edited = model.generate(**options)
            section.check("the same tokens", torch.equal(model.generate(**options, **compiled), edited))
            section.check("edits change the tokens", not torch.equal(edited, base))
            rollback()
            section.check("after rollback", torch.equal(model.generate(**options, **compiled), base))
