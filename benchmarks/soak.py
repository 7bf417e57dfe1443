"""Edit a small model for a long time, and show that nothing grows and that nothing is left behind.

    python benchmarks/soak.py --minutes 20

Each round edits, saves, loads, generates, merges and rolls back, with GRACE and UltraEdit on one model; at its end, all
edits are rolled back. The logits and the weights are then bitwise those of the unedited model, and the memory of the
process, its open files and the hooks on the model must be those of the first rounds.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _machine import describe, finish, machine, median, stop
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from easyedit_lifelong import (
    GraceHyperParams,
    UltraEditHyperParams,
    apply_grace_to_model,
    apply_ultraedit_to_model,
    load_edits,
    merge_edits,
    rollback_case,
    save_edits,
)
from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.errors import LifelongError

NAMES = [f"name{number}" for number in range(400)]
WORDS = ["the", "capital", "of", "is", "who", "wrote", "lives", "in", *NAMES]
GRACE = GraceHyperParams(model_name="small", inner_params=["model.layers.2.mlp.down_proj"], n_iter=6, eps=0.5)
ULTRAEDIT = UltraEditHyperParams(model_name="small", inner_params=["model.layers.1.mlp.down_proj"])
ALLOWED_MEGABYTES = 20
"""Largest growth of the process from the first rounds to the last: what allocators of memory keep."""


@dataclass
class Round:
    """What was measured at the end of a round, without edits on the model.

    Attributes:
        megabytes: resident memory of the process.
        files: open files of the process.
        hooks: hooks on all modules of the model.
        attributes: attributes of all modules of the model.
    """

    megabytes: float
    files: int
    hooks: int
    attributes: int


class WrongAnswerError(Exception):
    """A model answers otherwise than it must."""


class Soak:
    """Edits a model again and again.

    Args:
        folder: a folder for saved edits, which is emptied in every round.
        edits: GRACE's edits in a round; UltraEdit makes as many in two batches.
        seed: seed of the edits.
    """

    def __init__(self, folder: Path, edits: int, seed: int) -> None:
        self._folder, self._edits, self._random = folder, edits, random.Random(seed)
        self.tokenizer = _tokenizer()
        self.model, self._other = _model(), _model()
        self.edits = self.rollbacks = 0
        self._prompts = self.tokenizer([f"the capital of {name} is" for name in NAMES[:40]], return_tensors="pt")
        self._logits, self._state = self._run(self.model), _copy_of_state(self.model)

    def round(self) -> Round:
        """Edit, save, load, generate, merge and roll everything back; return the measurements.

        Raises:
            LifelongError: a step failed.
            WrongAnswerError: a loaded model answers otherwise, or something is left after the rollback.
        """
        rollbacks = [self._grace() for _ in range(self._edits)]
        rollbacks += [self._ultraedit(self._edits // 2) for _ in range(2)]
        self._generate()
        saved = self._folder / "saved"
        save_edits(self.model, saved)
        rollback = load_edits(self._other, saved, self.tokenizer)
        if not torch.equal(self._run(self._other), self._run(self.model)):
            raise WrongAnswerError("a model with loaded edits answers otherwise than the one whose edits were saved")
        rollback()
        self._merge()
        for case in self._random.sample(range(self._edits), self._edits // 2):
            rollback_case(self.model, self._case(case))
            self.rollbacks += 1
        self._generate()
        for undo in reversed(rollbacks):
            undo()
            self.rollbacks += 1
        for model in (self.model, self._other):
            state = model.state_dict()
            same = state.keys() == self._state.keys() and all(map(torch.equal, state.values(), self._state.values()))
            if not same or not torch.equal(self._run(model), self._logits):
                raise WrongAnswerError("after the rollback of all edits, the model is not the unedited one")
        return self._measure()

    def _grace(self) -> Callable[[], Any]:
        """Make one edit with GRACE; return its rollback."""
        number = self.edits % self._edits
        request = {"case_id": self._case(number), **self._request(), "prompt": f"who wrote name{number}"}
        return self._applied(apply_grace_to_model, [request], GRACE)

    def _ultraedit(self, count: int) -> Callable[[], Any]:
        """Make a batch of edits with UltraEdit; return its rollback."""
        batch = [{"case_id": f"batch-{number}", **self._request()} for number in range(count)]
        return self._applied(apply_ultraedit_to_model, batch, ULTRAEDIT)

    def _applied(self, apply: Callable[..., Any], requests: list[dict[str, Any]], hparams: Any) -> Callable[[], Any]:
        rollback: Callable[[], Any] = apply(self.model, self.tokenizer, requests, hparams)[1]
        self.edits += len(requests)
        return rollback

    def _request(self) -> dict[str, Any]:
        subject, target = self._random.sample(NAMES, 2)
        return {"prompt": f"the capital of {subject} is", "target_new": target, "subject": subject}

    def _case(self, number: int) -> str:
        return f"case-{number}"

    def _merge(self) -> None:
        """Merge GRACE's edits from two folders that each have a part of them, then take one case out in place."""
        parts = [self._folder / "first", self._folder / "second"]
        for part, cases in zip(parts, (range(self._edits // 2), range(self._edits // 2, self._edits)), strict=True):
            model = _model()
            for number in cases:
                request = {"case_id": self._case(number), **self._request()}
                apply_grace_to_model(model, self.tokenizer, [request], GRACE)
                self.edits += 1
            save_edits(model, part)
        merge_edits(parts, self._folder / "merged")
        rollback_folder(self._folder / "merged", cases=[self._case(0)])
        load_edits(self._other, self._folder / "merged", self.tokenizer)()

    def _generate(self) -> None:
        config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
        self.model.generate(**{name: rows[:8] for name, rows in self._prompts.items()}, generation_config=config)

    @torch.no_grad()
    def _run(self, model: Any) -> torch.Tensor:
        logits: torch.Tensor = model(**self._prompts).logits
        return logits

    def _measure(self) -> Round:
        gc.collect()
        modules = list(self.model.modules())
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
        return Round(
            _resident_megabytes(),
            len(os.listdir("/proc/self/fd")),
            sum(len(getattr(module, name)) for module in modules for name in hooks),
            sum(len(vars(module)) for module in modules),
        )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )


def _model() -> Any:
    """Return a random model of four blocks, the same one each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS) + 4, max_position_embeddings=64, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model


def _copy_of_state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _resident_megabytes() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _rounds(soak: Soak, folder: Path, minutes: float) -> Iterator[Round]:
    """Yield the measurements of rounds until the time is over."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        yield soak.round()
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def main() -> None:
    """Run the rounds, and print what grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="how long to run (default 20)")
    parser.add_argument("--edits", type=int, default=20, help="GRACE's edits in a round (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the edits (default 0)")
    arguments = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        sys.exit(stop("this benchmark reads /proc, which only Linux has"))
    console = Console()
    console.print(describe(machine()))
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        soak = Soak(folder, arguments.edits, arguments.seed)
        try:
            for measured in _rounds(soak, folder, arguments.minutes):
                rounds.append(measured)
                if len(rounds) in (1, 2) or len(rounds) % 20 == 0:
                    console.print(f"round {len(rounds)}, {soak.edits} edits: {asdict(measured)}")
        except (LifelongError, WrongAnswerError) as error:
            sys.exit(stop(f"round {len(rounds) + 1}: {error}"))
    if len(rounds) < 8:
        sys.exit(stop(f"only {len(rounds)} rounds; give it more minutes"))
    quarter = len(rounds) // 4  # the first quarter warms up the allocators
    early, late = rounds[quarter : 2 * quarter], rounds[-quarter:]
    growth = {
        name: median(getattr(one, name) for one in late) - median(getattr(one, name) for one in early)
        for name in asdict(rounds[0])
    }
    console.print(f"growth from the second quarter of the rounds to the last: {growth}")
    finish(
        "soak",
        ours=median(one.megabytes for one in late),
        theirs=median(one.megabytes for one in early),
        unit="MB",
        rounds=len(rounds),
        edits=soak.edits,
        rollbacks=soak.rollbacks,
        growth=growth,
    )
    if growth["megabytes"] > ALLOWED_MEGABYTES or any(growth[name] for name in ("files", "hooks", "attributes")):
        sys.exit(1)


if __name__ == "__main__":
    main()
