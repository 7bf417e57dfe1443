"""Target vectors by limited-memory BFGS: the search of each request by itself, in fewer steps than Adam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.methods.locate_edit import target_vectors
from easyedit_lifelong.methods.locate_edit.aligned_rows import group_rows
from easyedit_lifelong.methods.locate_edit.facts import Fact, encode_fact
from easyedit_lifelong.methods.locate_edit.suffix_rows import SuffixRows
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors, optimise_targets
from easyedit_lifelong.methods.shared.quasi_newton import QuasiNewtonSearch
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from tests.conformance.method_cases import CASES, LAYOUTS, REQUESTS, MethodCase
from tests.support.coachhook_edits import LEARNABLE_FACT, TEMPLATES, hparams_for, requests_for
from tests.support.corpus import write_corpus
from tests.support.reference_targets import ReferenceOptimisation
from tests.support.tiny_models import build_model, build_tokenizer

METHODS = (
    "CoachHook",
    "CoachHook-codebook",
    "MEMIT-native",
    "AlphaEdit",
    "AlphaEdit-variants",
    "ROME-native",
    "NeuralDB",
)
SETTINGS: dict[str, dict[str, Any]] = {
    "all penalties": {"v_weight_decay": 0.5, "kl_factor": 0.3},
    "clamped": {"clamp_norm_factor": 0.3, "v_weight_decay": 0.1},
    "one step": {"v_num_grad_steps": 1},
    "high stop": {"v_stop_loss": 3.0},
    "long steps": {"v_lr": 5.0},
}


def encoded_facts() -> list[Fact]:
    hparams = hparams_for("llama")
    requests = [*requests_for(), EditRequest(9, *LEARNABLE_FACT)]
    return [encode_fact(build_tokenizer(), request, TEMPLATES, hparams, None) for request in requests]


def learnable_facts() -> list[Fact]:
    """Facts whose subject is the last word of the prompt, where the answer is read."""
    texts = [LEARNABLE_FACT, ("the capital of France", "Rome", "France"), ("king plays piano", "winter", "piano")]
    requests = [EditRequest(i, *text) for i, text in enumerate([*texts, ("cheese from the moon", "violin", "moon")])]
    return [encode_fact(build_tokenizer(), request, TEMPLATES, hparams_for("llama"), None) for request in requests]


def optimise(
    model: Any, facts: list[Fact], family: str = "llama", optimizer: str = "lbfgs", **options: Any
) -> TargetVectors:
    hparams = hparams_for(family, optimizer=optimizer, **options)
    return optimise_targets(Runner(model, build_tokenizer()), facts, hparams, 2)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_batch_gives_the_search_of_each_request_over_its_whole_loss(family: str, settings: str) -> None:
    """The reference computes the loss of one request with full rows and no cache; the ball is that of Adam."""
    model = build_model(family, torch.float64)
    options = {"v_num_grad_steps": 7, **SETTINGS[settings]}
    hparams = hparams_for(family, **options)
    facts = encoded_facts()
    batch = optimise(model, facts, family, **options)
    for i, fact in enumerate(facts):
        reference = ReferenceOptimisation(model, hparams, fact, 2)
        h = reference.unedited_value
        before = reference._run(fact.essence, torch.zeros_like(h))[1][fact.essence.lookup].detach()
        longest = 5 * hparams.v_lr * len(h) ** 0.5
        search = QuasiNewtonSearch(torch.zeros_like(h), longest, (1.0,), hparams.clamp_norm_factor * h.norm())
        steps = 0
        for step in range(hparams.v_num_grad_steps):
            delta = search.candidates[0].clone().requires_grad_()
            loss = reference.loss(delta, before)
            loss.backward()
            search.update([loss.item()], delta.grad)
            if search.value < hparams.v_stop_loss or step == hparams.v_num_grad_steps - 1:
                break
            steps += 1
        assert (batch.steps[i], batch.losses[i]) == (steps, pytest.approx(search.value, rel=1e-6))
        z = h + search.point
        torch.testing.assert_close(batch.z[i], z, rtol=1e-5, atol=1e-5 * float(z.norm()))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_losses_after_the_same_number_of_steps_are_not_higher_than_adams(family: str) -> None:
    model, facts = build_model(family), learnable_facts()
    adam = optimise(model, facts, family, "adam", v_num_grad_steps=12, v_stop_loss=0.01)
    lbfgs = optimise(model, facts, family, v_num_grad_steps=12, v_stop_loss=0.01)
    assert all(loss <= other + 1e-3 for loss, other in zip(lbfgs.losses, adam.losses, strict=True))


def test_a_loss_is_reached_in_fewer_steps_than_by_adam() -> None:
    model, facts = build_model("llama"), learnable_facts()
    adam, lbfgs = (
        optimise(model, facts, optimizer=name, v_num_grad_steps=60, v_stop_loss=0.5) for name in ("adam", "lbfgs")
    )
    assert max(lbfgs.losses) < 0.5
    assert all(steps <= others for steps, others in zip(lbfgs.steps, adam.steps, strict=True))
    assert sum(lbfgs.steps) < sum(adam.steps) / 2


def test_a_batch_in_any_order_gives_the_target_vectors_of_single_requests() -> None:
    model, facts = build_model("gpt2", torch.float64), encoded_facts()
    options = {"family": "gpt2", "v_num_grad_steps": 10, "v_stop_loss": 2.0}
    batch = optimise(model, facts, **options)
    reversed_batch = optimise(model, facts[::-1], **options)
    assert len(set(batch.steps)) > 1  # requests leave the batch at different steps
    assert batch.steps == reversed_batch.steps[::-1]
    for i, fact in enumerate(facts):
        single = optimise(model, [fact], **options)
        assert (batch.steps[i], batch.learned[i]) == (single.steps[0], single.learned[0])
        for z in (batch.z[i], reversed_batch.z[-1 - i]):
            torch.testing.assert_close(z, single.z[0], rtol=1e-7, atol=1e-7 * float(z.norm()))


def test_the_same_batch_twice_gives_bitwise_the_same_target_vectors() -> None:
    first, second = (optimise(build_model("llama"), encoded_facts()) for _ in range(2))
    assert torch.equal(first.z, second.z)
    assert first.losses == second.losses


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("at_projection", [False, True], ids=["block", "projection"])
def test_every_change_at_which_the_loss_is_computed_is_within_the_ball(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, at_projection: bool
) -> None:
    evaluated: list[torch.Tensor] = []
    log_probabilities = SuffixRows.log_probabilities

    def recording(rows: SuffixRows, delta: torch.Tensor, **options: Any) -> Any:
        evaluated.append(delta.detach().norm(dim=1))
        return log_probabilities(rows, delta, **options)

    monkeypatch.setattr(SuffixRows, "log_probabilities", recording)
    model, facts = build_model("llama"), encoded_facts()
    hparams = hparams_for("llama", optimizer=optimizer, clamp_norm_factor=0.2, v_num_grad_steps=12)
    projection = find_module(model, hparams.rewrite_module_tmp.format(2))[1] if at_projection else None
    runner = Runner(model, build_tokenizer())
    start = optimise_targets(runner, facts, hparams_for("llama", v_num_grad_steps=1), 2, projection).z
    evaluated.clear()
    found = optimise_targets(runner, facts, hparams, 2, projection)
    limits = 0.2 * start.norm(dim=1) * (1 + 1e-5)
    assert len(evaluated) >= 12
    assert all((norms <= limits).all() for norms in evaluated)
    assert any((norms > 0.199 * start.norm(dim=1)).any() for norms in evaluated), "the clamp is never reached"
    assert ((found.z - start).norm(dim=1) <= limits).all()


def test_the_best_target_vector_is_the_result_and_not_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[torch.Tensor] = []
    compute = target_vectors._losses

    def recording(*arguments: Any) -> Any:
        result = compute(*arguments)
        losses.append(result[0].detach())
        return result

    monkeypatch.setattr(target_vectors, "_losses", recording)
    found = optimise(build_model("llama"), encoded_facts(), v_lr=20.0, kl_factor=0.3, v_num_grad_steps=8)
    evaluated = torch.stack(losses)
    assert (evaluated[1:] > evaluated[:-1]).any(), "no step raised a loss"
    torch.testing.assert_close(torch.tensor(found.losses), evaluated.amin(dim=0))


@pytest.mark.parametrize("v_lr", [1e6, 1e37])
def test_a_huge_learning_rate_gives_finite_target_vectors(v_lr: float) -> None:
    result = optimise(build_model("llama"), encoded_facts(), v_lr=v_lr, clamp_norm_factor=1e6)
    assert torch.isfinite(result.z).all()
    assert torch.isfinite(torch.tensor(result.losses)).all()


def test_a_loss_that_is_nan_from_the_beginning_is_refused_with_the_record() -> None:
    model, facts = build_model("llama"), encoded_facts()
    with torch.no_grad():
        model.get_output_embeddings().weight[facts[2].contexts[0].target[0]] = float("nan")
    with pytest.raises(EditError, match=f"case {facts[0].request.case_id}: .* became nan after 0 steps"):
        optimise(model, facts)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text for second moments."""
    folder = tmp_path_factory.mktemp("inputs")
    write_corpus(folder)
    return folder


@pytest.mark.parametrize("case", [case for case in CASES if case.name in METHODS], ids=lambda case: case.name)
def test_every_method_edits_with_the_optimiser_and_rolls_back(
    case: MethodCase, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)
    losses = []
    for optimizer in ("adam", "lbfgs"):
        settings = {**case.settings(LAYOUTS["llama"]), "optimizer": optimizer}
        model = build_model("llama")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        logits = model(torch.tensor([[5, 6, 7]])).logits
        hparams = case.hparams_class(model_name="tiny", **settings)  # type: ignore[operator]
        _, rollback = case.method.apply(model, build_tokenizer(), REQUESTS, hparams)
        losses.append([result.loss for result in rollback.results])
        rollback()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, logits)
    assert losses[0] != losses[1]
    assert sum(losses[1]) <= sum(losses[0]) * 1.1


@pytest.mark.parametrize("case", [case for case in CASES if case.name in METHODS], ids=lambda case: case.name)
def test_adam_is_the_default_and_a_misspelled_optimiser_is_refused(case: MethodCase) -> None:
    assert case.hparams().optimizer == "adam"
    with pytest.raises(HyperParameterError, match=r"optimizer: 'lbgfs' isn't one of adam, lbfgs.*lbfgs"):
        case.hparams_class(model_name="tiny", **{**case.settings(LAYOUTS["llama"]), "optimizer": "lbgfs"})  # type: ignore[operator]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_rounded_products_give_nearly_the_same_vectors_with_exact_losses(family: str, optimizer: str) -> None:
    model, facts = build_model(family), encoded_facts()
    options: dict[str, Any] = {"v_weight_decay": 0.1, "kl_factor": 0.3, "v_num_grad_steps": 6}
    exact = optimise(model, facts, family, optimizer, **options)
    rounded = optimise(model, facts, family, optimizer, train_dtype="bfloat16", **options)
    assert not torch.equal(rounded.z, exact.z)
    start = optimise(model, facts, family, optimizer, v_num_grad_steps=1).z
    similarity = torch.cosine_similarity(rounded.z - start, exact.z - start, dim=1)
    assert similarity.min() > 0.97
    assert rounded.losses == pytest.approx(exact.losses, rel=0.05)
    groups = [
        SuffixRows(Runner(model, build_tokenizer()), group, 2, hparams_for(family))
        for group in group_rows(facts, model)
    ]
    zero = torch.zeros_like(start)
    for group in groups:
        group.log_probabilities(zero)
    loss, learned = target_vectors._losses(groups, rounded.z - start, len(facts), hparams_for(family, **options))
    loss = loss + 0.1 * (rounded.z - start).norm(dim=1) / start.square().sum(dim=1)
    assert rounded.losses == pytest.approx(loss.tolist(), rel=1e-4, abs=1e-5)
    assert rounded.learned == learned.tolist()


@pytest.mark.parametrize("failure", ["differs", "no cache"])
def test_without_partial_passes_nothing_is_rounded(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    model, facts = build_model("llama"), encoded_facts()
    full_pass, failures = SuffixRows._full_pass, [failure == "no cache"]

    def fail_once(rows: SuffixRows) -> Any:
        if failures.pop() if failures else False:
            raise RuntimeError("no cache of this kind")
        return full_pass(rows)

    if failure == "differs":
        monkeypatch.setattr("easyedit_lifelong.methods.locate_edit.suffix_rows.same_logits", lambda *_: False)
    results = []
    for train_dtype in (None, "bfloat16"):
        failures[:] = [failure == "no cache"]
        monkeypatch.setattr(SuffixRows, "_full_pass", fail_once)
        results.append(optimise(model, facts, train_dtype=train_dtype))
    assert torch.equal(results[0].z, results[1].z)
    assert results[0].losses == results[1].losses
