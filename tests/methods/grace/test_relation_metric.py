"""The relation metric: against its definition, on data in which cosine distance fails, and stored for a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.data import samples
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import auc
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric, fit_relation_metric
from easyedit_lifelong.methods.grace.subject import relation_prompts
from easyedit_lifelong.methods.grace.subject.relation_prompts import relation_metric_for
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized
from tests.support.corpus import write_corpus
from tests.support.subject_edits import REQUESTS, hparams
from tests.support.tiny_models import build_model, build_tokenizer


def prompts(seed: int, *, relations: int = 12, each: int = 30, width: int = 16) -> tuple[Tensor, list[int]]:
    """Return activations whose subjects vary much and in two directions, and whose relations vary little."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9))).Q
    numbers = torch.arange(relations).repeat_interleave(each)
    signal = torch.randn(relations, 4, generator=generator)[numbers] @ axes[:4]
    subjects = 4 * torch.randn(len(numbers), 2, generator=generator) @ axes[4:6]
    noise = 0.3 * torch.randn(len(numbers), width, generator=generator)
    return signal + subjects + noise + 5, numbers.tolist()


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_the_directions_maximise_the_variance_between_relations(shrinkage: float) -> None:
    activations, relations = prompts(0)
    metric = fit_relation_metric(activations, relations, 4, shrinkage)
    vectors = activations.double()
    means = torch.stack([vectors[[r == n for r in relations]].mean(dim=0) for n in range(12)])
    within = torch.zeros(16, 16, dtype=torch.float64)
    for vector, relation in zip(vectors, relations, strict=True):
        within += torch.outer(vector - means[relation], vector - means[relation]) / len(vectors)
    within = (1 - shrinkage) * within + shrinkage * within.trace() / 16 * torch.eye(16, dtype=torch.float64)
    centred = means - means.mean(dim=0)
    between = centred.t() @ centred
    projection = metric.projection.double()
    torch.testing.assert_close(
        projection.t() @ within @ projection, torch.eye(4, dtype=torch.float64), atol=1e-4, rtol=0
    )
    # The ratios of variances are the largest eigenvalues of S_w⁻¹ S_b.
    expected = torch.linalg.eigvals(torch.linalg.solve(within, between)).real.sort(descending=True).values[:4]
    ratios = (projection.t() @ between @ projection).diagonal().sort(descending=True).values
    torch.testing.assert_close(ratios, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(metric.mean.double(), vectors.mean(dim=0), rtol=1e-6, atol=0)


def test_prompts_of_new_relations_are_told_apart_where_cosine_distance_fails() -> None:
    metric = fit_relation_metric(*prompts(0, relations=60), 4)
    activations, relations = prompts(1)  # other relations, the same nuisance directions
    same = torch.tensor([[a == b for b in relations] for a in relations])
    pairs = torch.triu(torch.ones_like(same), diagonal=1)

    def separation(vectors: Tensor) -> float:
        distances = 1 - normalized(vectors, COS) @ normalized(vectors, COS).t()
        return auc(distances[same & pairs], distances[~same & pairs])

    assert separation(activations) < 0.6
    assert separation(metric.project(activations)) > 0.9


def test_a_projection_does_not_depend_on_the_other_activations() -> None:
    metric = fit_relation_metric(*prompts(0))
    activations, _ = prompts(2)
    together = metric.project(activations)
    assert all(torch.equal(together[n], metric.project(activations[n : n + 1])[0]) for n in range(0, 360, 7))


def test_at_most_one_direction_less_than_relations_is_kept() -> None:
    activations, relations = prompts(0, relations=3)
    assert fit_relation_metric(activations, relations, 30).projection.shape == (16, 2)


@pytest.mark.parametrize(
    ("activations", "relations", "message"),
    [
        (torch.randn(4, 3), [1, 1, 1, 1], "at least two relations"),
        (torch.ones(4, 3), [1, 1, 2, 2], "the same activation"),
    ],
)
def test_prompts_without_variation_are_refused(activations: Tensor, relations: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_relation_metric(activations, relations)


# ------------------------------------------------------------------ the shipped prompts


def test_the_shipped_templates_hold_one_subject_each_and_belong_to_one_relation() -> None:
    content = json.loads(samples.RELATION_PROMPTS.read_text(encoding="utf-8"))
    templates = [template for relation in content["relations"] for template in relation["templates"]]
    assert len(content["relations"]) >= 150
    assert all(template.count("{}") == 1 and template == template.strip() for template in templates)
    assert len({template.casefold() for template in templates}) == len(templates)
    assert all(len(relation["templates"]) == 6 for relation in content["relations"])
    assert all(len(set(names)) == 16 for names in content["subjects"].values())


def test_the_templates_of_a_relation_are_asked_about_different_subjects() -> None:
    content = json.loads(samples.RELATION_PROMPTS.read_text(encoding="utf-8"))
    filled = relation_prompts.relation_prompts()
    assert len(set(filled)) == len(filled) == 6 * len(content["relations"])
    for number, relation in enumerate(content["relations"]):
        texts = [text for text, of_relation in filled if of_relation == number]
        names = content["subjects"][relation["subject"]]
        assert len({name for name in names for text in texts if name in text}) >= 6, relation["name"]


def test_no_relation_prompt_is_a_sample_fact() -> None:
    """Scores on the sample facts would otherwise be of prompts that the metric has seen."""
    texts = {text for text, _ in relation_prompts.relation_prompts()}
    for path in (samples.COUNTERFACT, samples.ZSRE):
        for record in json.loads(path.read_text(encoding="utf-8")):
            assert texts.isdisjoint(value for value in record.values() if isinstance(value, str))


# ------------------------------------------------------------------ of a model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path, documents=30)


def count_fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    fits: list[int] = []

    def fit(activations: Tensor, relations: Any) -> RelationMetric:
        fits.append(len(relations))
        return fit_relation_metric(activations, relations)

    monkeypatch.setattr(relation_prompts, "fit_relation_metric", fit)
    return fits


def test_a_metric_is_fitted_once_for_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits, settings = count_fits(monkeypatch), hparams("late-relations", folder=folder)
    first = relation_metric_for(build_model("llama"), build_tokenizer(), settings)
    again = relation_metric_for(build_model("llama"), build_tokenizer(), settings)
    assert len(fits) == 1
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, again, strict=True))
    other = build_model("llama")
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    relation_metric_for(other, build_tokenizer(), settings)
    assert len(fits) == 2, "a metric of other weights was used"


def test_a_damaged_file_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits, settings = count_fits(monkeypatch), hparams("late-relations", folder=folder)
    expected = relation_metric_for(build_model("llama"), build_tokenizer(), settings)
    (file,) = (folder / "stats").rglob("relation_metric/*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    again = relation_metric_for(build_model("llama"), build_tokenizer(), settings)
    assert len(fits) == 2 and torch.equal(again.projection, expected.projection)
    assert load_file(file).keys() == {"mean", "projection"}


def test_edits_on_the_model_do_not_change_its_metric(folder: Path) -> None:
    settings = hparams("late-relations", folder=folder)
    expected = relation_metric_for(build_model("llama"), build_tokenizer(), settings)
    model = build_model("llama")
    other_layer = hparams("late", folder=folder, inner_params=["model.layers[0].mlp.down_proj"])
    apply_grace_to_model(model, build_tokenizer(), REQUESTS[:3], other_layer)
    for file in (folder / "stats").rglob("relation_metric/*.safetensors"):
        file.unlink()
    again = relation_metric_for(model, build_tokenizer(), settings)
    assert torch.equal(again.mean, expected.mean) and torch.equal(again.projection, expected.projection)


@pytest.mark.parametrize(("value", "message"), [(float("inf"), "infinite or NaN"), (0.0, "can't tell relations apart")])
def test_activations_without_information_are_refused_with_the_layer(folder: Path, value: float, message: str) -> None:
    model, settings = build_model("llama"), hparams("late-relations", folder=folder)
    model.model.layers[2].mlp.act_fn.forward = lambda states: torch.full_like(states, value)
    with pytest.raises(ModelError, match=message) as caught:
        relation_metric_for(model, build_tokenizer(), settings)
    assert "model.layers.2.mlp.down_proj" in str(caught.value)
