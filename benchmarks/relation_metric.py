"""How well GRACE's relation metric tells relations apart: on relations that it was not fitted on, and on other texts.

    python benchmarks/relation_metric.py --layers 20,22,26

Prints, for each layer and for cosine distance of activations beside it: the area under the ROC curve, and the share of
pairs of two relations that pass the radius within which 80 % of the pairs of one relation are. Then, for the answer
layer of the hyperparameter file, how well a second edit that corrects the first is told from one that does not
(``corrections.json``).
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from _machine import describe, machine, stop
from rich.console import Console
from torch import Tensor

from easyedit_lifelong import GraceHyperParams, load_model
from easyedit_lifelong.data import samples
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import auc
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric, fit_relation_metric
from easyedit_lifelong.methods.grace.subject.relation_prompts import relation_prompts
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner

FOLDS = 4
PAIRS = 40
"""Pairs of one relation, and of two, for each relation."""

CORRECTIONS = Path(__file__).with_name("corrections.json")

Pairs = tuple[list[int], list[int]]
"""The indices of the first and of the second prompts of pairs."""


class Activations:
    """A layer's inputs at the last tokens of texts.

    Args:
        inputs: the layers' inputs.
        path: the layer.
        tokenizer: the model's.
    """

    def __init__(self, inputs: LayerInputs, path: str, tokenizer: object) -> None:
        self._inputs, self._path, self._tokenizer = inputs, path, tokenizer

    def of(self, texts: Sequence[str]) -> Tensor:
        """Return one activation for each text, ``(texts, width)``."""
        rows = [encode_text(self._tokenizer, text) for text in texts]
        return torch.stack([vectors[-1] for vectors in self._inputs.at(self._path, rows)]).float()


def distances(activations: Tensor, pairs: Pairs, metric: RelationMetric | None) -> Tensor:
    """Return the distance of each pair; by cosine distance of activations without a metric."""
    unit = normalized(activations if metric is None else metric.project(activations), COS)
    return 1 - (unit[pairs[0]] * unit[pairs[1]]).sum(dim=1)


def held_out_pairs(held_out: Sequence[int], numbers: Sequence[int], types: Sequence[str]) -> tuple[Pairs, Pairs]:
    """Return pairs of prompts of one relation, and of two relations of one type of subject.

    Args:
        held_out: the relations.
        numbers: the relation of each prompt.
        types: the type of each relation's subjects.
    """
    rng = random.Random(0)
    prompts_of = {relation: [n for n, number in enumerate(numbers) if number == relation] for relation in held_out}
    same: Pairs = ([], [])
    other: Pairs = ([], [])
    for relation, prompts in prompts_of.items():
        rivals = [rival for rival in held_out if rival != relation and types[rival] == types[relation]]
        for _ in range(PAIRS):
            first, second = rng.sample(prompts, 2)
            same[0].append(first)
            same[1].append(second)
            if rivals:
                other[0].append(first)
                other[1].append(rng.choice(prompts_of[rng.choice(rivals)]))
    return same, other


def cross_validate(activations: Tensor, numbers: Sequence[int], types: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return AUC and passing share of relations that the metric was not fitted on, with the metric and without."""
    order = list(range(len(types)))
    random.Random(1).shuffle(order)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"activations": [], "relations": []}
    for fold in range(FOLDS):
        held_out = order[fold::FOLDS]
        fitted = [n for n, number in enumerate(numbers) if number not in set(held_out)]
        metric = fit_relation_metric(activations[fitted], [numbers[n] for n in fitted])
        same, other = held_out_pairs(held_out, numbers, types)
        for name, chosen in (("activations", None), ("relations", metric)):
            found[name].append((distances(activations, same, chosen), distances(activations, other, chosen)))
    return {name: separation(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}


def separation(near: Tensor, far: Tensor) -> tuple[float, float]:
    """Return the AUC, and the share of ``far`` within the radius that holds 80 % of ``near``."""
    radius = torch.quantile(near, 0.8, interpolation="higher")
    return auc(near, far), float((far <= radius).float().mean())


def sample_separation(layer: Activations, metric: RelationMetric | None) -> tuple[float, float]:
    """Return the separation of paraphrases of the sample facts from other questions about their subjects."""
    texts = []
    for path in (samples.COUNTERFACT, samples.ZSRE):
        for record in json.loads(path.read_text(encoding="utf-8")):
            prompt, paraphrase = record.get("prompt") or record["src"], record.get("rephrase_prompt")
            texts += [prompt, paraphrase or record["rephrase"], record["relation_specificity_prompt"]]
    activations, firsts = layer.of(texts), list(range(0, len(texts), 3))
    near, far = ([n + offset for n in firsts] for offset in (1, 2))
    return separation(distances(activations, (firsts, near), metric), distances(activations, (firsts, far), metric))


def corrections(layer: Activations, metric: RelationMetric) -> list[str]:
    """Return a line for each radius: how many corrections it finds, and how many of what it finds are corrections."""
    pairs = json.loads(CORRECTIONS.read_text(encoding="utf-8"))
    activations = layer.of([pair[which]["prompt"] for pair in pairs for which in ("first", "second")])
    count = len(pairs)
    gaps = distances(activations, (list(range(0, 2 * count, 2)), list(range(1, 2 * count, 2))), metric)
    same_subject = [pair["first"]["subject"] == pair["second"]["subject"] for pair in pairs]
    lines = []
    for radius in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        found = [
            pair["kind"] for pair, gap, same in zip(pairs, gaps, same_subject, strict=True) if same and gap <= radius
        ]
        right, total = found.count("same fact"), sum(pair["kind"] == "same fact" for pair in pairs)
        lines.append(f"radius {radius}: recall {right / total:.2f}, precision {right / max(len(found), 1):.2f}")
    return lines


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hparams", default="GRACE/smollm2-135m-subject", help="file with model and answer layer")
    parser.add_argument(
        "--layers", default="20,22,26", help="blocks beside that of the answer layer, separated by commas"
    )
    arguments = parser.parse_args()
    hparams, console = GraceHyperParams.from_hparams(arguments.hparams), Console()
    model, tokenizer = load_model(hparams.model_name)
    console.print(describe(machine()), highlight=False)
    template = hparams.answer_layer or ""
    paths = [re.sub(r"\d+", block.strip(), template, count=1) for block in arguments.layers.split(",")]
    paths = list(dict.fromkeys([*paths, template]))
    content = json.loads(samples.RELATION_PROMPTS.read_text(encoding="utf-8"))
    types = [relation["subject"] for relation in content["relations"]]
    texts, numbers = zip(*relation_prompts(), strict=True)
    modules = {path: find_module(model, path)[1] for path in paths}
    inputs = LayerInputs(Runner(model, tokenizer), modules, ends_only=True)
    for path in paths:
        layer = Activations(inputs, path, tokenizer)
        activations = layer.of(texts)
        metric = fit_relation_metric(activations, numbers)
        for name, (area, share) in cross_validate(activations, numbers, types).items():
            sample_area, sample_share = sample_separation(layer, metric if name == "relations" else None)
            console.print(
                f"{path}  {name:11}  new relations: AUC {area:.3f}, {share:.2f} pass;  "
                f"sample facts: AUC {sample_area:.3f}, {sample_share:.2f} pass",
                highlight=False,
            )
    answer_layer = Activations(inputs, template, tokenizer)
    metric = fit_relation_metric(answer_layer.of(texts), numbers)
    console.print("\nCorrections in other words:", *corrections(answer_layer, metric), sep="\n", highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (LifelongError, ValueError) as error:
        stop(error)
