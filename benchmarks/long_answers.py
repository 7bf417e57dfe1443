"""GRACE on targets of about 100 words: with one key for each target, and with a key for every few tokens of it.

    python benchmarks/long_answers.py hallucination-edit-300.json --hparams GRACE/smollm2-135m --tokens-per-key 0,16

The targets are sentences of SelfCheckGPT's records, as WISE prepares them, joined until they have 90 words. The prompt
is that of the first of these records. ``--first`` and ``--records`` choose which targets are edited; settings are found
on others than those that are scored. All edits are made one by one in one process, on one copy of the model for each
value of ``tokens_per_key``, and stay. Afterwards the table shows, for each value:

- the share of targets that greedy generation reproduces, token by token;
- ES: the mean share of target tokens that are predicted right, teacher-forced;
- the share of locality prompts whose next 20 tokens are those of the unedited model;
- in a text that no edit is about (``--text``): the share of tokens whose logits changed in any bit;
- keys, training steps and CPU seconds of an edit.

With ``--out``, the edits are saved after each of them, and a repeated call continues.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _machine import describe, machine, stop
from rich.console import Console
from rich.table import Table

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, load_edits, load_model, save_edits
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.models.encoding import encode_text, pad_rows

WORDS = 90
"""A target has at least this many words."""

BATCH = 10
"""Number of texts that are generated at once."""

NEIGHBOUR_TOKENS = 20
"""Number of generated tokens that a locality prompt is compared by."""


def long_requests(path: Path) -> list[dict[str, Any]]:
    """Return requests whose targets are joined from the sentences of consecutive records.

    Every record is used once. A prompt that an earlier request has already is left out with its sentences.

    Args:
        path: a file in the format ``hallucination``.
    """
    requests, prompts = list[dict[str, Any]](), set[str]()
    group: list[dict[str, str]] = []
    for record in json.loads(path.read_text(encoding="utf-8")):
        group.append(record)
        target = " ".join(entry["target_new"].strip() for entry in group)
        if len(target.split()) < WORDS:
            continue
        first, group = group[0], []
        prompt = first["prompt"].strip()
        if prompt not in prompts:
            prompts.add(prompt)
            requests.append(
                {
                    "case_id": len(requests),
                    "prompt": prompt,
                    "target_new": target,
                    "subject": first["subject"],
                    "locality": {"neighborhood": {"prompt": first["locality_prompt"], "ground_truth": "-"}},
                }
            )
    return requests


@dataclasses.dataclass
class Side:
    """One copy of the model, with edits made with one value of ``tokens_per_key``.

    Attributes:
        hparams: its hyperparameters.
        model: the copy.
        folder: where its edits are saved; None to save nothing.
        journal: one entry for each edit: steps, CPU seconds, whether it was learned, keys.
    """

    hparams: GraceHyperParams
    model: Any
    folder: Path | None
    journal: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def resume(self, tokenizer: Any) -> None:
        """Load the edits that an earlier call has saved."""
        if self.folder is not None and (self.folder / "journal.json").exists():
            load_edits(self.model, self.folder / "edits")
            self.journal = json.loads((self.folder / "journal.json").read_text())

    def edit(self, tokenizer: Any, request: dict[str, Any]) -> None:
        """Make an edit and save it."""
        began = time.process_time()
        _, rollback = apply_grace_to_model(self.model, tokenizer, [request], self.hparams)
        seconds, (result,) = time.process_time() - began, rollback.results
        keys = 1 + result.detail.get("further_keys", 0)
        self.journal.append({"seconds": seconds, "steps": result.steps, "learned": result.learned, "keys": keys})
        if self.folder is not None:
            save_edits(self.model, self.folder / "edits")
            (self.folder / "journal.json").write_text(json.dumps(self.journal))


def reproduced(scorer: Scorer, model: Any, requests: Sequence[dict[str, Any]]) -> list[int]:
    """Return for each request how many target tokens greedy generation gives before the first wrong one."""
    pairs = [scorer.encode(request["prompt"], request["target_new"]) for request in requests]
    longest = max(len(pair.target) for pair in pairs)
    counts = []
    for begin in range(0, len(pairs), BATCH):
        batch = pairs[begin : begin + BATCH]
        ids, mask = pad_rows([pair.prompt for pair in batch], scorer.tokenizer.pad_token_id, "left", model.device)
        output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest, do_sample=False)
        for pair, new in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
            wrong = [n for n, token in enumerate(pair.target) if n >= len(new) or new[n] != token]
            counts.append(wrong[0] if wrong else len(pair.target))
    return counts


def changed_tokens(base: Any, edited: Any, rows: Sequence[list[int]]) -> float:
    """Return the share of tokens whose logits an edited model changes in any bit."""
    changed = total = 0
    for row in rows:
        ids = torch.tensor([row])
        with torch.no_grad():
            differs = (base(input_ids=ids).logits != edited(input_ids=ids).logits).any(dim=-1)
        changed, total = changed + int(differs.sum()), total + differs.numel()
    return changed / total


def measure(
    side: Side, base: Any, tokenizer: Any, requests: Sequence[dict[str, Any]], rows: Sequence[list[int]]
) -> list[str]:
    """Return a row of the table."""
    requests = requests[: len(side.journal)]
    scorer, n = Scorer(tokenizer), len(requests)
    lengths = [len(scorer.encode(request["prompt"], request["target_new"]).target) for request in requests]
    counts = reproduced(scorer, side.model, requests)
    forced = scorer.forced(side.model, [(request["prompt"], request["target_new"]) for request in requests])
    neighbours = [request["locality"]["neighborhood"]["prompt"] for request in requests]
    before, after = (scorer.generate(model, neighbours, NEIGHBOUR_TOKENS) for model in (base, side.model))
    mean = {name: sum(entry[name] for entry in side.journal) / n for name in ("keys", "steps", "seconds")}
    return [
        str(side.hparams.tokens_per_key),
        str(n),
        f"{sum(count == length for count, length in zip(counts, lengths, strict=True)) / n:.2f}",
        f"{sum(count / length for count, length in zip(counts, lengths, strict=True)) / n:.3f}",
        f"{sum(answer.accuracy for answer in forced) / n:.4f}",
        f"{sum(a == b for a, b in zip(before, after, strict=True)) / n:.2f}",
        f"{changed_tokens(base, side.model, rows):.5f}" if rows else "",
        f"{mean['keys']:.1f}",
        f"{mean['steps']:.0f}",
        f"{mean['seconds']:.1f}",
        f"{max(entry['seconds'] for entry in side.journal):.1f}",
    ]


def main() -> None:
    """Read the arguments, edit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="records in the format hallucination")
    parser.add_argument("--hparams", default="GRACE/smollm2-135m", help="hyperparameters")
    parser.add_argument("--tokens-per-key", default="0,16", help="values of tokens_per_key, with commas")
    parser.add_argument("--first", type=int, default=0, help="number of the first target")
    parser.add_argument("--records", type=int, default=20, help="number of targets")
    parser.add_argument("--text", type=Path, help="a text that no edit is about")
    parser.add_argument("--text-tokens", type=int, default=4000, help="number of tokens of it")
    parser.add_argument("--set", action="append", default=[], help="another hyperparameter, NAME=VALUE")
    parser.add_argument("--out", type=Path, help="folder for the edits; a repeated call continues")
    parser.add_argument(
        "--stop-after",
        type=float,
        default=float("inf"),
        help="seconds after which no edit is begun, and those made are scored",
    )
    args = parser.parse_args()
    console, began = Console(width=140), time.monotonic()
    requests = long_requests(args.data)[args.first : args.first + args.records]
    base_hparams = GraceHyperParams.from_hparams(args.hparams)
    changes = {name: json.loads(value) for name, value in (entry.split("=", 1) for entry in args.set)}
    model, tokenizer = load_model(base_hparams.model_name)
    sides = [
        Side(
            dataclasses.replace(base_hparams, tokens_per_key=int(value), **changes),
            copy.deepcopy(model),
            args.out / f"tokens-per-key-{value}" if args.out else None,
        )
        for value in args.tokens_per_key.split(",")
    ]
    for side in sides:
        side.resume(tokenizer)
    for n, request in enumerate(requests):
        for side in sides:
            if len(side.journal) == n and time.monotonic() - began <= args.stop_after:
                side.edit(tokenizer, request)
                console.print(f"target {n}, tokens_per_key {side.hparams.tokens_per_key}: {side.journal[-1]}")
    ids = encode_text(tokenizer, args.text.read_text(encoding="utf-8"))[: args.text_tokens] if args.text else []
    rows = [ids[begin : begin + 500] for begin in range(0, len(ids), 500)]
    columns = ("tokens_per_key", "edits", "reproduced", "part reproduced", "ES", "locality", "changed tokens")
    table = Table(*columns, "keys", "steps", "CPU s", "most CPU s", title=describe(machine()))
    for side in filter(lambda side: side.journal, sides):
        row = measure(side, model, tokenizer, requests, rows)
        console.print(*row, sep="  ")
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except LifelongError as error:
        stop(error)
