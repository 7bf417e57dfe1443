"""GRACE's values can be trained with the logits of likely tokens; what is reported is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.methods.grace.training import optimise, restricted_training
from easyedit_lifelong.methods.grace.training.likely_tokens import LikelyTokens, can_restrict, likely_tokens
from easyedit_lifelong.methods.grace.training.suffix_pass import SuffixPass
from easyedit_lifelong.models.encoding import IGNORED
from tests.support import trained_values
from tests.support.causal_families import FAMILIES
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model
from tests.support.trained_values import REQUESTS


def hparams(**settings: Any) -> GraceHyperParams:
    return trained_values.hparams(**{"optimizer": "lbfgs", **settings})


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    head = nn.Linear(16, 200)
    with torch.no_grad():
        head.weight.mul_(8)  # so that some tokens are far more likely than others
    return head


@pytest.fixture
def states() -> Tensor:
    """Hidden states of four rows, two for each of two edits, at three positions."""
    return torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([[3, 150, IGNORED], [3, 150, IGNORED], [7, 8, 9], [IGNORED] * 3])


class TestLikelyTokens:
    def test_the_most_likely_tokens_and_the_targets_are_chosen(self, head: nn.Linear, states: Tensor) -> None:
        logits = head(states).detach()
        tokens = likely_tokens(head, logits, TARGETS, 40, 2)
        assert tokens.shape == (4, 40)
        assert tokens[0].equal(tokens[1])
        assert tokens[2].equal(tokens[3])
        assert len(tokens[0].unique()) == 40
        for row, positions in ((0, (0, 1)), (1, (0, 1)), (2, (0, 1, 2)), (3, (0,))):
            chosen = set(tokens[row].tolist())
            assert chosen >= set(TARGETS[row].tolist()) - {IGNORED}
            assert chosen >= {int(logits[row, position].argmax()) for position in positions}

    def test_all_targets_of_an_edit_are_chosen_however_few_tokens_are_asked_for(
        self, head: nn.Linear, states: Tensor
    ) -> None:
        targets = torch.tensor([[3, 150, 8], [4, 150, 8], [7, IGNORED, IGNORED], [IGNORED] * 3])
        logits = head(states).detach()
        tokens = likely_tokens(head, logits, targets, 1, 2)
        assert tokens[0].tolist() == [3, 4, 8, 150]
        likely = LikelyTokens.of(head, tokens, logits)
        chosen = tokens.unsqueeze(1).expand(-1, 3, -1).gather(2, likely.classes_of(targets).clamp_min(0).unsqueeze(2))
        assert chosen.squeeze(2)[targets != IGNORED].equal(targets[targets != IGNORED])

    def test_a_target_whose_row_is_zero_is_chosen(self, head: nn.Linear, states: Tensor) -> None:
        with torch.no_grad():
            head.weight[3] = 0
        tokens = likely_tokens(head, head(states).detach(), TARGETS, 20, 2)
        assert {3, 150} <= set(tokens[0].tolist())
        assert int(head(states)[0, 0].argmax()) in tokens[0]

    def test_tokens_that_rise_with_a_target_are_chosen(self, head: nn.Linear, states: Tensor) -> None:
        with torch.no_grad():
            head.weight[77] = head.weight[3] * 0.99  # almost the target's row, and so its competitor
            head.bias[77] = head.bias.min() - 1
        tokens = likely_tokens(head, head(states).detach(), TARGETS, 30, 2)
        assert 77 in tokens[0]
        assert 77 not in tokens[2]

    def test_the_classes_have_the_probabilities_of_the_tokens(self, head: nn.Linear, states: Tensor) -> None:
        logits = head(states).detach()
        likely = LikelyTokens.of(head, likely_tokens(head, logits, TARGETS, 20, 2), logits)
        with likely.restricting_head():
            of_union = head(states)
        assert of_union.shape == (4, 3, len(likely.union))
        assert head(states).shape == logits.shape
        classes, tokens = likely.classes_of(TARGETS), likely.union[likely.columns]
        probabilities, expected = likely.classes_from(of_union).softmax(dim=-1), logits.softmax(dim=-1)
        for row in range(4):
            torch.testing.assert_close(probabilities[row, :, :-1], expected[row][:, tokens[row]])
        torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(4, 3))
        loss = F.cross_entropy(likely.classes_from(of_union).flatten(0, 1), classes.flatten())
        torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), TARGETS.flatten()))

    def test_the_gradient_is_that_of_all_logits_but_for_the_other_tokens(self, head: nn.Linear, states: Tensor) -> None:
        logits = head(states).detach()
        likely = LikelyTokens.of(head, likely_tokens(head, logits, TARGETS, 199, 2), logits)
        gradients = []
        for restricted in (True, False):
            moving = states.clone().requires_grad_(True)
            if restricted:
                with likely.restricting_head():
                    classes = likely.classes_from(head(moving))
            else:
                classes = head(moving)
            targets = likely.classes_of(TARGETS) if restricted else TARGETS
            (gradient,) = torch.autograd.grad(F.cross_entropy(classes.flatten(0, 1), targets.flatten()), moving)
            gradients.append(gradient)
        left_out = sorted(set(range(200)) - set(likely.union.tolist()))
        assert len(left_out) <= 2
        torch.testing.assert_close(gradients[0], gradients[1], atol=2e-3, rtol=0.1)

    def test_tokens_that_the_model_excludes_give_a_finite_rest(self, head: nn.Linear, states: Tensor) -> None:
        logits = head(states).detach()
        tokens = likely_tokens(head, logits, TARGETS, 20, 2)
        excluded = torch.full_like(logits, -torch.inf)
        for row in range(4):
            excluded[row][:, tokens[row]] = logits[row][:, tokens[row]]
        assert LikelyTokens.of(head, tokens, excluded).rest.isfinite().all()

    def test_only_a_plain_linear_head_is_restricted(self, head: nn.Linear) -> None:
        class Adapted(nn.Linear):
            pass

        assert can_restrict(head)
        assert not can_restrict(Adapted(16, 200))
        assert not can_restrict(nn.Linear(16, 200, device="meta"))
        assert not can_restrict(None)
        vars(head)["forward"] = head.forward  # as accelerate does
        assert not can_restrict(head)


def trained(
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    tokenizer: Any,
    hparams: GraceHyperParams,
    requests: Sequence[EditRequest] = REQUESTS,
) -> tuple[list[optimise.TrainedValue], list[int]]:
    """Edit a model with requests; return the trained values, and the number of classes of each training."""
    classes: list[int] = []
    train = optimise.train_values

    def recording(value_pass: Any, *arguments: Any) -> list[optimise.TrainedValue]:
        classes.append(value_pass.logits(None).shape[-1])
        return train(value_pass, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(optimise, "train_values", recording)
        results = trained_values.trained_values(model, tokenizer, hparams, requests)
    return results, classes


@pytest.mark.parametrize("train_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("likely", [0, 8])
@pytest.mark.parametrize("batch", [1, 16])
def test_values_are_learned_and_their_losses_are_exact(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, batch: int, likely: int, train_dtype: str | None
) -> None:
    model = build_model("llama")
    # Keys so small that no edit acts on another's prompt.
    settings = {"likely_tokens": likely, "train_dtype": train_dtype, "train_batch": batch, "eps": 0.01}
    results, classes = trained(monkeypatch, model, tokenizer, hparams(**settings))
    assert set(classes) == {likely + 1 if likely else model.config.vocab_size}
    assert all(result.learned and result.loss <= 0.05 for result in results)
    for request, result in zip(REQUESTS, results, strict=True):
        prompt = tokenizer(request.prompt)["input_ids"]
        target = tokenizer(request.target_new)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *target[:-1]]])).logits[0, len(prompt) - 1 :]
        assert F.cross_entropy(logits, torch.tensor(target)).item() == pytest.approx(result.loss, abs=1e-4)


def test_a_batch_gives_the_values_of_single_edits(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    single, _ = trained(monkeypatch, build_model("llama"), tokenizer, hparams(likely_tokens=8, train_batch=1))
    batch, _ = trained(monkeypatch, build_model("llama"), tokenizer, hparams(likely_tokens=8, train_batch=16))
    assert [result.steps for result in single] == [result.steps for result in batch]
    for one, other in zip(single, batch, strict=True):
        torch.testing.assert_close(one.value, other.value, rtol=1e-3, atol=1e-3)


def test_an_edit_that_fails_the_check_is_trained_further(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    """Two tokens are the target and one other: nothing in training says which further token becomes more likely."""
    results, classes = trained(monkeypatch, build_model("llama"), tokenizer, hparams(likely_tokens=2, train_batch=1))
    assert len(classes) > len(REQUESTS)
    assert all(result.learned and result.loss <= 0.05 for result in results)
    assert all(result.steps <= 60 for result in results)


def test_targets_of_several_tokens_with_drift_are_the_same_in_a_batch(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    requests = [
        EditRequest(case_id=0, prompt="the red fox", target_new="river stone red", subject="fox"),
        EditRequest(case_id=1, prompt="a blue bird", target_new="stone", subject="bird"),
    ]
    settings = {
        "query_token": "subject_last",
        "replacement": "replace_last",
        "inner_params": ["model.layers[0].mlp.gate_proj.weight"],
        "context_templates": ["the {subject} is"],
        "kl_factor": 0.1,
        "val_init": "warm",
        "n_iter": 10,
        "likely_tokens": 2,
    }
    single, batch = (
        trained(monkeypatch, build_model("llama"), tokenizer, hparams(train_batch=n, **settings), requests)[0]
        for n in (1, 16)
    )
    for one, other in zip(single, batch, strict=True):
        assert one.steps == other.steps > 0
        assert one.loss == pytest.approx(other.loss, rel=0.01)
        assert one.objective == pytest.approx(other.objective, rel=0.01)
        assert one.objective > one.loss


def test_no_more_steps_than_n_iter_are_made(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    results, _ = trained(monkeypatch, build_model("llama"), tokenizer, hparams(likely_tokens=2, n_iter=3))
    assert all(result.steps <= 3 for result in results)
    results, _ = trained(monkeypatch, build_model("llama"), tokenizer, hparams(likely_tokens=8, n_iter=7, reg=None))
    assert [result.steps for result in results] == [7, 7, 7]


def test_a_head_that_cannot_be_restricted_computes_all_tokens(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    model = build_model("llama")
    expected, _ = trained(monkeypatch, build_model("llama"), tokenizer, hparams())
    monkeypatch.setattr("easyedit_lifelong.methods.grace.training.suffix_pass.can_restrict", lambda _: False)
    results, classes = trained(monkeypatch, model, tokenizer, hparams(likely_tokens=8))
    assert set(classes) == {model.config.vocab_size}
    for one, other in zip(results, expected, strict=True):
        assert one.value.equal(other.value)


@pytest.mark.parametrize("name", default_cases(sorted(FAMILIES), "gemma2", "cohere", "gptj", "granite", "gpt2"))
def test_a_restricted_pass_gives_the_logits_of_a_full_pass(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, name: str
) -> None:
    """Heads with a bias, heads that share the embeddings, and logits that the model scales or limits."""
    differences: list[float] = []
    restricted = SuffixPass.restricted

    def comparing(value_pass: SuffixPass, logits: Tensor, count: int, edits: int) -> SuffixPass | None:
        selection = restricted(value_pass, logits, count, edits)
        if selection is None:
            assert not value_pass.is_partial
            pytest.skip("the family has no partial passes, so its head is not looked at")
        assert selection._likely is not None
        values = value_pass.output + 0.1
        with torch.no_grad():
            full = value_pass.logits(values)
            pair = selection.logits(values), selection._likely.classes_from(full[..., selection._likely.union])
        differences.append(float((pair[0] - pair[1]).abs().max()))
        # Also after another choice of tokens, the distribution without a value is that of the unedited model.
        again = restricted(value_pass, full, count, edits)
        assert again is not None
        assert again._likely is not None
        tokens = again._likely.union[again._likely.columns].unsqueeze(1).expand(-1, full.shape[1], -1)
        torch.testing.assert_close(
            again.unedited.softmax(dim=-1)[..., :-1], value_pass.unedited.softmax(dim=-1).gather(2, tokens)
        )
        return selection

    monkeypatch.setattr(SuffixPass, "restricted", comparing)
    family = FAMILIES[name]
    path = f"{family.rewrite_module.format(family.layers[1])}.weight"
    apply_grace_to_model(family.build(), tokenizer, REQUESTS, hparams(inner_params=[path], likely_tokens=8, n_iter=2))
    assert differences
    assert max(differences) < 1e-4


@pytest.mark.parametrize(("name", "value"), [("likely_tokens", 8), ("train_dtype", "auto")])
@pytest.mark.parametrize("settings", [{"val_train": "adv"}, {"dropout": 0.1, "optimizer": "adam"}])
def test_noise_is_refused(name: str, value: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(HyperParameterError, match=f"{name}: needs val_train: sgd and dropout: 0"):
        GraceHyperParams(
            model_name="tiny", device="cpu", inner_params=["model.layers[1].mlp"], **{name: value}, **settings
        )


def test_products_are_rounded_in_training_and_not_in_the_check(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    """A value that fails the exact check is trained further; if it fails three times, with exact passes."""
    trainings: list[bool] = []  # whether the passes of each training round
    checks: list[bool] = []
    train, evaluate = optimise.train_values, restricted_training.evaluate
    best = optimise.Outcomes.best

    def recording(value_pass: SuffixPass, *arguments: Any) -> list[optimise.TrainedValue]:
        trainings.append(value_pass._products is not None)
        return train(value_pass, *arguments)

    def failing(value_pass: SuffixPass, *arguments: Any) -> Any:
        checks.append(value_pass._products is not None)
        outcomes, logits = evaluate(value_pass, *arguments)
        if len(checks) <= failures:
            vars(outcomes)["best"] = lambda edit, settings: (best(outcomes, edit, settings)[0], False)
        return outcomes, logits

    monkeypatch.setattr(optimise, "train_values", recording)
    monkeypatch.setattr(restricted_training, "evaluate", failing)
    for failures in range(4):
        trainings.clear()
        checks.clear()
        trained_values.trained_values(
            build_model("llama"), tokenizer, hparams(train_dtype="bfloat16", n_iter=200), REQUESTS[:1]
        )
        assert trainings == [True, True, True, False][: failures + 1]
        assert checks == [False] * min(failures + 1, 3)
