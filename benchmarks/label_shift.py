"""GRACE on a classifier whose labels shift, as court decisions do in the GRACE paper (arXiv 2211.11031, section 4).

    python benchmarks/label_shift.py --encoder FOLDER --relations relations.json --eps 1,2,4,8

A BERT encoder, such as all-MiniLM-L6-v2, is fine-tuned to say what a sentence is about: six topics of the relations in
the file (evandez/relations), one sentence for each subject and template. Then the labels of three relations shift to
another topic, and sentences of them arrive one by one, with sentences of the other relations between them. Only errors
are edited. The stream's first half chooses the radius ``eps`` (best mean of ERR, generality and TRR); its second half,
with other subjects, is scored.

The classifier was trained on the second template of each relation, the stream has the first one, and the paraphrase of
a sentence has the last one. TRR is the accuracy on sentences of other subjects, whose labels did not shift.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _machine import describe, machine, stop
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from easyedit_lifelong import GraceHyperParams, run_lifelong
from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.errors import LifelongError

TOPICS = {
    "geography": ("city", "country", "landmark"),
    "business": ("company", "product"),
    "politics": ("president",),
    "person": ("person",),
    "fiction": ("superhero", "pokemon"),
    "science": ("star", "food"),
}
"""The topics, by the first words of the relations' names."""
SHIFTS = {"company CEO": "person", "superhero person": "person", "food from country": "geography"}
"""The new topics of the relations whose labels shift."""
SCORES = ("ERR", "generality", "TRR")
SCOTUS_LAYERS = 12
"""Number of blocks of the encoder that the shipped file is for."""


class Sentence(NamedTuple):
    """A sentence in three wordings, and its topic before and after the shift."""

    trained: str
    asked: str
    paraphrase: str
    old: str
    new: str


def sentences(path: Path, seed: int) -> list[Sentence]:
    """Return the sentences of a file of relations, in random order."""
    found = []
    for relation in json.loads(path.read_text(encoding="utf-8")):
        name, templates = relation["name"], relation["templates"]
        topic = next(topic for topic, words in TOPICS.items() if name.split()[0] in words or name.startswith("plays"))
        topic = "person" if name.startswith("plays") else topic
        for sample in relation["samples"]:
            texts = [f"{template.format(sample['subject'])} {sample['object']}" for template in templates]
            wordings = texts[1 % len(texts)], texts[0], texts[-1]
            found.append(Sentence(*wordings, topic, SHIFTS.get(name, topic)))
    random.Random(seed).shuffle(found)
    return found


def train(folder: str, data: Sequence[Sentence], epochs: int, seed: int) -> tuple[Any, Any]:
    """Return a classifier with the old labels, fine-tuned from an encoder, and its tokenizer."""
    torch.manual_seed(seed)
    names = dict(enumerate(TOPICS))
    label_of = {name: label for label, name in names.items()}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label=names, label2id=label_of)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-5)
    order = random.Random(seed)
    model.train()
    for _ in range(epochs):
        rows = order.sample(list(data), len(data))
        for start in range(0, len(rows), 16):
            batch = rows[start : start + 16]
            inputs = tokenizer([row.trained for row in batch], return_tensors="pt", padding=True)
            loss = model(**inputs, labels=torch.tensor([label_of[row.old] for row in batch])).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval(), tokenizer


def stream_of(data: Sequence[Sentence]) -> list[dict[str, Any]]:
    """Return sentences as requests for their new labels."""
    return [
        {"case_id": number, "prompt": row.asked, "target_new": row.new, "rephrase_prompt": row.paraphrase}
        for number, row in enumerate(data)
    ]


def edited_scores(
    model: Any, tokenizer: Any, data: Sequence[Sentence], held_out: Sequence[Probe], hparams: GraceHyperParams
) -> dict[str, Any]:
    """Edit a copy of the classifier with the errors of a stream; return the scores, and the number of edits."""
    result = run_lifelong(
        copy.deepcopy(model),
        tokenizer,
        stream_of(data),
        hparams,
        eval_every=len(data),
        only_errors=True,
        retention=held_out,
        task="classification",
    )
    edits = sum(entry["status"] == "edited" for entry in result.journal)
    return {**result.metrics, "edits": edits}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--encoder", required=True, help="folder of a BERT encoder, such as all-MiniLM-L6-v2")
    add("--relations", type=Path, required=True, help="relations.json")
    add("--eps", default="1,2,4,8", help="radii to choose from (default 1,2,4,8)")
    add("--epochs", type=int, default=3, help="epochs of fine-tuning (default 3)")
    add("--stream", type=int, default=600, help="sentences in both halves of the stream (default 600)")
    add("--seed", type=int, default=0, help="seed of order and fine-tuning (default 0)")
    given = parser.parse_args(arguments)
    data = sentences(given.relations, given.seed)
    stream, rest = data[: given.stream], data[given.stream :]
    model, tokenizer = train(given.encoder, rest[: len(rest) // 2], given.epochs, given.seed)
    kept = [row for row in rest[len(rest) // 2 :] if row.old == row.new]
    held_out = [Probe(row.asked, row.old) for row in kept]
    layer = model.config.num_hidden_layers * 10 // SCOTUS_LAYERS - 1
    try:
        hparams = dataclasses.replace(
            GraceHyperParams.from_hparams("GRACE/scotus-bert"),
            model_name="classifier",
            inner_params=[f"bert.encoder.layer[{layer}].output.dense.weight"],
        )
        half = len(stream) // 2
        tried = {}
        for eps in map(float, given.eps.split(",")):
            chosen = dataclasses.replace(hparams, eps=eps)
            tried[eps] = edited_scores(model, tokenizer, stream[:half], held_out, chosen)
        best = max(tried, key=lambda eps: sum(tried[eps][name] for name in SCORES))
        scored = edited_scores(model, tokenizer, stream[half:], held_out, dataclasses.replace(hparams, eps=best))
    except LifelongError as error:
        return stop(error)
    console = Console()
    console.print(describe(machine()))
    columns = [*SCORES, "generality_before", "TRR_before", "n_keys"]
    table = Table("half", "eps", "edits", *columns)
    for name, eps, scores in [*(("first", eps, tried[eps]) for eps in tried), ("second", best, scored)]:
        cells = (scores[column] for column in columns)
        table.add_row(name, f"{eps:g}", str(scores["edits"]), *(f"{cell:.3f}" for cell in cells))
    console.print(table)
    result = {"name": "label_shift", "first": tried, "second": {best: scored}, "machine": machine()}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
