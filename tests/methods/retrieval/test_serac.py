"""SERAC: prompts in the scope of an edit get its fact, and all others the base model's logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyedit_lifelong import (
    EditError,
    HyperParameterError,
    IKEHyperParams,
    RunError,
    SERACHyperParams,
    apply_retrieval_to_model,
    explain,
    inspect_edits,
    load_edits,
    save_edits,
    train_scope_classifier,
)
from easyedit_lifelong.methods.retrieval.auto_threshold import auto_threshold
from easyedit_lifelong.methods.retrieval.editor import SERACEditor
from easyedit_lifelong.methods.retrieval.embedding import Standardisation, StateEmbedder
from easyedit_lifelong.methods.retrieval.method import check_model
from easyedit_lifelong.methods.retrieval.scope_classifier import load_classifier
from easyedit_lifelong.methods.shared.sample_sentences import Sentences
from tests.conformance.method_cases import OTHER_PROMPTS, REQUESTS
from tests.support.tiny_models import DEVICE, build_model, build_tokenizer

LAYER = 2


def hparams(**values: Any) -> SERACHyperParams:
    """Return hyperparameters for a tiny model."""
    return SERACHyperParams(model_name="tiny", embedding_layer=LAYER, **{"threshold": 0.9, **values})


def edited(**values: Any) -> Any:
    """Return a tiny model that carries edits."""
    model = build_model("llama")
    apply_retrieval_to_model(model, build_tokenizer(), REQUESTS, hparams(**values))
    return model


def logits_after(model: Any, text: str) -> torch.Tensor:
    """Return a model's logits at the last token of a text."""
    ids = torch.tensor([build_tokenizer()(text)["input_ids"]], device=DEVICE)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits[0, -1]
    return logits


def test_prompts_in_scope_get_the_fact_and_others_bitwise_the_base_models_logits() -> None:
    model, base = edited(), build_model("llama")
    for request in REQUESTS:
        prompt, target = request["prompt"], request["target_new"]
        expected = logits_after(base, f"New Fact: {prompt} {target} Prompt: {prompt}")
        torch.testing.assert_close(logits_after(model, prompt), expected, rtol=0, atol=5e-5)
    for prompt in OTHER_PROMPTS:
        (found,) = explain(model, build_tokenizer(), prompt).layers["SERAC-native"]
        assert found.answered_by is None
        assert found.nearest[0].cosine <= found.threshold == 0.9
        assert torch.equal(logits_after(model, prompt), logits_after(base, prompt))


def test_the_threshold_is_compared_with_the_cosine_of_the_nearest_edit() -> None:
    prompt = "snow and mountain"
    (found,) = explain(edited(), build_tokenizer(), prompt).layers["SERAC-native"]
    cosine = found.nearest[0].cosine
    assert -1 < cosine < 0.9
    below, above = edited(threshold=cosine - 1e-3), edited(threshold=cosine + 1e-3)
    base = logits_after(build_model("llama"), prompt)
    assert not torch.equal(logits_after(below, prompt), base)
    assert torch.equal(logits_after(above, prompt), base)


SUBJECTS = [("France", "the capital of France is"), ("Hamlet", "who wrote Hamlet"), ("Peru", "language spoken in Peru")]
TEXTS = [prompt for _, prompt in SUBJECTS] + ["king plays piano", "snow and mountain", "Berlin is far away", "blue sea"]


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5])
def test_at_the_automatic_threshold_at_most_the_given_share_of_sentences_fires(rate: float) -> None:
    embedder, tokenizer = StateEmbedder(build_model("llama"), LAYER), build_tokenizer()
    standardisation = Standardisation(torch.zeros(32, device=DEVICE), torch.ones(32, device=DEVICE))
    threshold = auto_threshold(embedder, tokenizer, standardisation, rate, Sentences(TEXTS, SUBJECTS))
    vectors = {text: embedder.embed([tokenizer(text)["input_ids"]])[0].double() for text in TEXTS}
    highest = [
        max(
            float(torch.cosine_similarity(vectors[text], vectors[prompt], dim=0))
            for subject, prompt in SUBJECTS
            if subject not in text
        )
        for text in TEXTS
    ]
    assert sum(cosine > threshold + 1e-6 for cosine in highest) <= rate * len(TEXTS)
    assert sum(cosine > threshold - 1e-6 for cosine in highest) > rate * len(TEXTS), "it is the smallest such threshold"


def test_the_automatic_threshold_is_stored_with_the_edits(tmp_path: Path) -> None:
    model, settings = build_model("llama"), hparams(threshold="auto", false_fire_rate=0.2)
    _, rollback = apply_retrieval_to_model(model, build_tokenizer(), REQUESTS, settings)
    (editor,) = SERACEditor.all_on(model)
    thresholds = {edit.data["threshold"] for edit in editor.edits}
    assert {result.detail["threshold"] for result in rollback.results} == thresholds
    assert len(thresholds) == 1
    assert 0 < thresholds.pop() <= 1 + 1e-6  # to this tokenizer, which knows few words, some sentences are equal
    save_edits(model, tmp_path / "edits")
    (part,) = inspect_edits(tmp_path / "edits").parts
    assert [edit["threshold"] for edit in part.edits] == [edit.data["threshold"] for edit in editor.edits]
    assert all(edit["nearness"] > 0 for edit in part.edits)


def test_one_retrieval_method_at_a_time() -> None:
    model = edited()
    ike = IKEHyperParams(model_name="tiny", embedding_layer=LAYER)
    with pytest.raises(EditError, match=r"the model carries SERAC-native edits, .* Roll them back first"):
        apply_retrieval_to_model(model, build_tokenizer(), REQUESTS[:1], ike)
    with pytest.raises(HyperParameterError, match="threshold: 'high' is neither a number nor auto"):
        hparams(threshold="high")


# ------------------------------------------------------------------ the trained classifier

NAMES = ["France", "Hamlet", "Peru", "London", "Berlin", "Paris", "Rome", "piano", "violin", "moon", "king", "bird"]
RECORDS = [
    {
        "prompt": f"where is {name} now",
        "target_new": "snow",
        "rephrase_prompt": f"blue sea and old snow . but {name} now is where",
        "locality_prompt": f"where is {NAMES[n - 1]} far",
        "locality_ground_truth": "winter",
    }
    for n, name in enumerate(NAMES)
]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier, trained on a tiny model."""
    folder = tmp_path_factory.mktemp("classifier") / "scope"
    summary = train_scope_classifier(
        build_model("llama"), build_tokenizer(), RECORDS, hparams(), folder, rank=16, steps=120, batch_size=8, lr=0.02
    )
    assert (summary.records, summary.held_out) == (10, 2)
    return folder


def share_answered(model: Any, prompts: list[str]) -> float:
    """Return the share of prompts whose own record's fact is put in front of them."""
    answers = [explain(model, build_tokenizer(), prompt).layers["SERAC-native"][0].answered_by for prompt in prompts]
    return sum(answer == n for n, answer in enumerate(answers)) / len(prompts)


def test_a_trained_classifier_finds_more_paraphrases_at_the_same_locality(classifier: Path) -> None:
    requests = [{**record, "case_id": n} for n, record in enumerate(RECORDS[:10])]
    paraphrases = [record["rephrase_prompt"] for record in RECORDS[:10]]
    others = [record["locality_prompt"] for record in RECORDS[:10]]
    shares = {}
    for name, settings in {"trained": {"scope_classifier": str(classifier)}, "plain": {"threshold": 0.5}}.items():
        model = build_model("llama")
        apply_retrieval_to_model(model, build_tokenizer(), requests, hparams(**settings))
        quiet = [explain(model, build_tokenizer(), text).layers["SERAC-native"][0].answered_by for text in others]
        shares[name] = share_answered(model, paraphrases), sum(answer is None for answer in quiet) / len(quiet)
    assert shares["trained"][0] > 0.8
    assert sum(shares["trained"]) > sum(shares["plain"])


def test_edits_with_a_classifier_load_with_the_same_one_only(classifier: Path, tmp_path: Path) -> None:
    model = edited(scope_classifier=str(classifier))
    save_edits(model, tmp_path / "edits")
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "edits")
    for request in REQUESTS:
        assert torch.equal(logits_after(loaded, request["prompt"]), logits_after(model, request["prompt"]))
    index = classifier / "classifier.json"
    original = index.read_text(encoding="utf-8")
    try:
        index.write_text(json.dumps({**json.loads(original), "threshold": -0.5}), encoding="utf-8")
        with pytest.raises(RunError, match="the edits were made with another scope classifier"):
            load_edits(build_model("llama"), tmp_path / "edits")
    finally:
        index.write_text(original, encoding="utf-8")


def test_a_classifier_of_another_model_or_other_embeddings_is_refused(classifier: Path, tmp_path: Path) -> None:
    model = build_model("llama")
    with pytest.raises(RunError, match="trained with embedding_layer=2, not 1"):
        load_classifier(classifier, model, SERACHyperParams(model_name="tiny", embedding_layer=1))
    with pytest.raises(RunError, match=r"trained on .* whose weights aren't those of this model"):
        load_classifier(classifier, build_model("gpt2"), hparams())
    with pytest.raises(RunError, match="this is no scope classifier"):
        load_classifier(tmp_path, model, hparams())
    with pytest.raises(RunError, match="this is no scope classifier"):  # before a run begins
        check_model(model, build_tokenizer(), hparams(scope_classifier=str(tmp_path)))


@pytest.mark.parametrize(
    "damage", [{"settings": 3}, {"threshold": float("nan")}, {"model": "tiny"}, {"threshold": None}], ids=str
)
def test_a_classifier_with_a_damaged_index_is_refused(classifier: Path, tmp_path: Path, damage: dict[str, Any]) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(classifier, damaged)
    index = damaged / "classifier.json"
    index.write_text(json.dumps({**json.loads(index.read_text(encoding="utf-8")), **damage}), encoding="utf-8")
    with pytest.raises(RunError, match="this is no scope classifier, or it is damaged"):
        load_classifier(damaged, build_model("llama"), hparams())


def test_a_classifier_with_tensors_of_other_shapes_is_refused(classifier: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(classifier, damaged)
    tensors = load_file(damaged / "classifier.safetensors")
    save_file({**tensors, "mean": tensors["mean"][1:].clone()}, damaged / "classifier.safetensors")
    with pytest.raises(RunError, match="the shapes of mean, spread, projection do not match"):
        load_classifier(damaged, build_model("llama"), hparams())


def test_no_file_is_overwritten_by_a_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / "used", "~/used", tmp_path / "used" / "file"):
        with pytest.raises(RunError, match="exists and is not an empty folder"):  # before the training
            train_scope_classifier(None, None, RECORDS, hparams(), folder)
