"""Target vectors: against MEMIT's optimisation written out plainly, on whole rows, one request at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.locate_edit.aligned_rows import align_rows, group_rows
from easyedit_lifelong.methods.locate_edit.facts import Fact, Row, encode_fact
from easyedit_lifelong.methods.locate_edit.suffix_rows import SuffixRows
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors, optimise_targets
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from tests.support.coachhook_edits import LEARNABLE, TEMPLATES, editor_on, hparams_for, requests_for
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer

# GPT-J attends in float32 whatever its dtype. Llama and its kin round their norms so, but one row at a time.
EXACT = {"gptj": 1e-5}
FAMILIES = ["gpt2", "llama", "mistral"]


def facts_of(fact_token: str = "subject_last", mentions: tuple[str, ...] = ()) -> list[Fact]:
    hparams = hparams_for("llama", fact_token=fact_token, mention_templates=list(mentions))
    requests = [*requests_for(), EditRequest(9, *LEARNABLE)]
    return [encode_fact(build_tokenizer(), request, TEMPLATES, hparams, None) for request in requests]


def optimise(model: Any, hparams: CoachHookHyperParams, facts: list[Fact], layer: int | None = None) -> TargetVectors:
    layer = hparams.edited_layers[-1] if layer is None else layer
    return optimise_targets(Runner(model, build_tokenizer()), facts, hparams, layer)


class Plain:
    """MEMIT's compute_z as its paper and code describe it: whole rows, no cache, no batch."""

    def __init__(self, model: Any, hparams: CoachHookHyperParams, fact: Fact, layer: int) -> None:
        self.model, self.hparams, self.fact = model, hparams, fact
        self.block = find_module(model, hparams.layer_module_tmp.format(layer))[1]
        number = hparams.v_loss_layer
        last = model.config.num_hidden_layers - 1
        self.early = None if number is None or max(number, layer) >= last else max(number, layer)
        self.start = self._value(fact.contexts[0])

    def _value(self, row: Row) -> Tensor:
        kept: list[Tensor] = []
        handle = self.block.register_forward_hook(
            lambda _, __, out: kept.append(out if isinstance(out, Tensor) else out[0])
        )
        with torch.no_grad():
            self.model(torch.tensor([row.prompt]))
        handle.remove()
        return kept[0][0, row.lookup]

    def _run(self, row: Row, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities at every token of a row: for the loss, and for the divergence."""

        def change(_: Any, __: Any, out: Any) -> Any:
            hidden = (out if isinstance(out, Tensor) else out[0]).clone()
            hidden[0, row.lookup] += delta
            return hidden if isinstance(out, Tensor) else (hidden, *out[1:])

        handles, kept = [self.block.register_forward_hook(change)], []
        if self.early is not None:  # after the change, where it is the same block
            early = find_module(self.model, self.hparams.layer_module_tmp.format(self.early))[1]
            handles.append(
                early.register_forward_hook(lambda _, __, out: kept.append(out if isinstance(out, Tensor) else out[0]))
            )
        logits = said = self.model(torch.tensor([row.prompt + row.target[:-1]])).logits
        for handle in handles:
            handle.remove()
        if kept:
            norm = find_module(self.model, self.hparams.ln_f_module)[1]
            logits = self.model.get_output_embeddings()(norm(kept[0]))
        return logits[0].log_softmax(-1), said[0].log_softmax(-1)

    def loss(self, delta: Tensor, before: Tensor) -> Tensor:
        losses = []
        for row in (*self.fact.contexts, *self.fact.mentions):
            answers, _ = self._run(row, delta)
            places = answers[len(row.prompt) - 1 :]
            losses.append(-sum(places[i, token] for i, token in enumerate(row.target)) / len(row.target))
        total = sum(losses) / len(losses)
        if self.fact.essence is not None:
            _, now = self._run(self.fact.essence, delta)
            total = total + self.hparams.kl_factor * F.kl_div(
                before, now[self.fact.essence.lookup], log_target=True, reduction="sum"
            )
        return total + self.hparams.v_weight_decay * delta.norm() / self.start.norm() ** 2

    def optimise(self) -> tuple[Tensor, int, float]:
        delta = torch.zeros_like(self.start, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=self.hparams.v_lr)
        before = torch.empty(0)
        if self.fact.essence is not None:
            before = self._run(self.fact.essence, delta)[1][self.fact.essence.lookup].detach()
        steps, loss = 0, torch.empty(())
        for step in range(self.hparams.v_num_grad_steps):
            optimizer.zero_grad()
            loss = self.loss(delta, before)
            if loss < self.hparams.v_stop_loss or step == self.hparams.v_num_grad_steps - 1:
                break
            loss.backward()
            optimizer.step()
            steps += 1
            limit = self.hparams.clamp_norm_factor * self.start.norm()
            if delta.norm() > limit:
                with torch.no_grad():
                    delta.mul_(limit / delta.norm())
        return (self.start + delta).detach(), steps, loss.item()


SETTINGS: dict[str, dict[str, Any]] = {
    "all penalties": {"v_weight_decay": 0.5, "kl_factor": 0.3},
    "no penalties": {"v_weight_decay": 0.0, "kl_factor": 0.0},
    "clamped": {"clamp_norm_factor": 0.3, "v_weight_decay": 0.1},
    "one step": {"v_num_grad_steps": 1},
    "high stop": {"v_stop_loss": 3.0},
    "lower layer": {"layers": [0]},
    "mentions": {"mention_templates": ["{subject} and {prompt}", "from {subject} . {prompt}"]},
    "last layer": {"layers": [3], "fact_token": "last"},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", default_cases(FAMILIES, "gpt2", "mistral"))
def test_as_memit_does_one_by_one(family: str, settings: str) -> None:
    model = build_model(family, torch.float64)
    hparams = hparams_for(family, **{"v_num_grad_steps": 8, **SETTINGS[settings]})
    facts, layer = facts_of(hparams.fact_token, tuple(hparams.mention_templates)), hparams.edited_layers[-1]
    if family == "mistral":  # beyond its window there is no gradient, and Adam makes steps of rounding errors
        facts = [fact for fact in facts if fact.request.case_id != 2]
    together = optimise(model, hparams, facts)
    exact = EXACT.get(family, 1e-9)
    for i, fact in enumerate(facts):
        z, steps, loss = Plain(model, hparams, fact, layer).optimise()
        assert together.steps[i] == steps
        assert together.losses[i] == pytest.approx(loss, rel=exact, abs=exact)
        torch.testing.assert_close(together.z[i], z, rtol=exact, atol=exact * float(z.norm()))


@pytest.mark.parametrize("fact_token", ["subject_first", "subject_first_after_last", "last"])
def test_wherever_the_fact_is_looked_up(fact_token: str) -> None:
    model = build_model("gpt2", torch.float64)
    hparams = hparams_for("gpt2", v_num_grad_steps=6, fact_token=fact_token)
    facts = facts_of(fact_token)
    together = optimise(model, hparams, facts)
    for i, fact in enumerate(facts):
        z, steps, _ = Plain(model, hparams, fact, 2).optimise()
        assert together.steps[i] == steps
        torch.testing.assert_close(together.z[i], z, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("v_loss_layer", default_cases([0, 1, 2, 3], 0, 2))
@pytest.mark.parametrize("layer", [1, 3])
def test_the_loss_of_an_earlier_block(v_loss_layer: int, layer: int) -> None:
    model = build_model("gpt2", torch.float64)
    hparams = hparams_for(
        "gpt2",
        v_num_grad_steps=6,
        layers=[layer],
        v_loss_layer=v_loss_layer,
        ln_f_module="transformer.ln_f",
        fact_token="last",
    )
    facts = facts_of("last")
    together = optimise(model, hparams, facts)
    for i, fact in enumerate(facts):
        z, steps, loss = Plain(model, hparams, fact, layer).optimise()
        assert (together.steps[i], together.losses[i]) == (steps, pytest.approx(loss, rel=1e-8))
        torch.testing.assert_close(together.z[i], z, rtol=1e-8, atol=1e-8)


def test_a_batch_is_its_requests_one_by_one(family: str) -> None:
    if family == "gemma2":
        model = build_model(family)
        exact = 1e-3
    else:
        model, exact = build_model(family, torch.float64), EXACT.get(family, 1e-9)
    hparams = hparams_for(family, v_stop_loss=2.0, v_num_grad_steps=8)
    facts = [fact for fact in facts_of() if family != "mistral" or fact.request.case_id != 2]
    together = optimise(model, hparams, facts)
    alone = [optimise(model, hparams, [fact]) for fact in facts]
    backwards = optimise(model, hparams, facts[::-1])
    assert together.steps == [one.steps[0] for one in alone] == backwards.steps[::-1]
    assert together.learned == [one.learned[0] for one in alone]
    for i, one in enumerate(alone):
        scale = float(one.z.norm())
        torch.testing.assert_close(together.z[i], one.z[0], rtol=exact, atol=exact * scale)
        torch.testing.assert_close(backwards.z[-1 - i], one.z[0], rtol=exact, atol=exact * scale)


def test_each_request_stops_by_itself() -> None:
    model = build_model("gpt2", torch.float64)
    facts = facts_of()
    result = optimise(model, hparams_for("gpt2", v_num_grad_steps=25, v_stop_loss=2.0), facts)
    assert len(set(result.steps)) > 1
    for steps, loss in zip(result.steps, result.losses, strict=True):
        assert (loss < 2.0) == (steps < 24)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(SuffixRows, "_matches_full_pass", lambda *_: False)
    return monkeypatch


@pytest.mark.parametrize("v_loss_layer", [None, 1, 2])
def test_running_in_part_is_running_whole(family: str, whole: pytest.MonkeyPatch, v_loss_layer: int | None) -> None:
    double = family != "gemma2"  # which computes NaN for left-padded rows in float64
    model = build_model(family, torch.float64 if double else torch.float32)
    norm = "transformer.ln_f" if family.startswith("gpt") else "model.norm"
    hparams = hparams_for(family, layers=[1], v_loss_layer=v_loss_layer, v_num_grad_steps=6, ln_f_module=norm)
    at_full_length = optimise(model, hparams, facts_of())
    whole.undo()
    in_part = optimise(model, hparams, facts_of())
    exact = EXACT.get(family, 1e-9 if double else 2e-3)
    torch.testing.assert_close(in_part.z, at_full_length.z, rtol=exact, atol=exact * float(in_part.z.norm(dim=1).max()))
    assert in_part.losses == pytest.approx(at_full_length.losses, rel=exact)


def test_every_family_can_be_run_in_part(family: str) -> None:
    runner = Runner(build_model(family), build_tokenizer())
    hparams = hparams_for(family)
    for owned in group_rows(facts_of()):
        assert SuffixRows(runner, owned, 2, hparams)._partial


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_only_what_changes_is_run_again(layer: int) -> None:
    model = build_model("llama")
    calls = dict.fromkeys(range(4), 0)
    seen: list[int] = []
    handles = []
    for number, block in enumerate(model.model.layers):

        def count(_: Any, args: Any, number: int = number) -> None:
            calls[number] += 1
            seen.append(args[0].shape[1])

        handles.append(block.self_attn.q_proj.register_forward_pre_hook(count))
    owned = group_rows(facts_of())[0]
    rows = SuffixRows(Runner(model, build_tokenizer()), owned, layer, hparams_for("llama"))
    calls.update(dict.fromkeys(calls, 0))
    seen.clear()
    delta = torch.zeros(5, 32)
    for _ in range(3):
        rows.log_probabilities(delta)
    assert calls == {number: 3 * (number > layer) for number in range(4)}
    longest = max(item.suffix_length for item in owned)
    assert set(seen) == ({longest} if layer < 3 else set())


def test_a_model_whose_parts_are_unknown_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("gpt2", torch.float64)
    hparams = hparams_for("gpt2", v_num_grad_steps=5)
    expected = optimise(model, hparams, facts_of())
    monkeypatch.setattr("easyedit_lifelong.models.runner.anatomy_of", lambda _: None)
    torch.testing.assert_close(optimise(model, hparams, facts_of()).z, expected.z, rtol=1e-8, atol=1e-8)


def test_changes_are_no_larger_than_asked() -> None:
    model = build_model("llama")
    facts = facts_of()
    hparams = hparams_for("llama", clamp_norm_factor=0.2)
    free = optimise(model, hparams_for("llama", v_num_grad_steps=1), facts).z
    moved = (optimise(model, hparams, facts).z - free).norm(dim=1)
    assert (moved <= 0.2 * free.norm(dim=1) * (1 + 1e-5)).all()
    assert (moved > 0).all()


def test_the_first_value_is_what_the_block_returns() -> None:
    model = build_model("llama")
    hparams, facts = hparams_for("llama", v_num_grad_steps=1), facts_of()
    result = optimise(model, hparams, facts)
    assert result.steps == [0] * len(facts)
    for i, fact in enumerate(facts):
        torch.testing.assert_close(result.z[i], Plain(model, hparams, fact, 2).start, rtol=1e-4, atol=1e-4)


def test_validated_hooks_are_in_place_while_values_are_optimised() -> None:
    model, tokenizer = build_model("gpt2", torch.float64), build_tokenizer()
    hparams = hparams_for("gpt2", v_num_grad_steps=5)
    bare = optimise(model, hparams, facts_of())
    editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    edited = optimise(model, hparams, facts_of())
    assert not torch.allclose(edited.z[0], bare.z[0])
    assert edited.losses != bare.losses


def test_nan_names_the_record_and_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    facts = facts_of()
    with torch.no_grad():
        model.get_output_embeddings().weight[facts[2].contexts[0].target[0]] = float("nan")
    # Every record's softmax is spoiled; the first is named.
    with pytest.raises(EditError, match=f"case {facts[0].request.case_id}: .* became nan after 0 steps"):
        optimise(model, hparams_for("llama"), facts)


def test_a_huge_learning_rate_is_an_error_or_an_edit_but_never_nan() -> None:
    model = build_model("llama")
    result = optimise(model, hparams_for("llama", v_lr=1e6, clamp_norm_factor=1e6), facts_of())
    assert torch.isfinite(result.z).all()


def test_the_models_weights_get_no_gradient_and_no_trace() -> None:
    model = build_model("llama")
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    optimise(model, hparams_for("llama", v_num_grad_steps=3), facts_of())
    assert all(p.grad is None for p in model.parameters())
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == before
    with torch.no_grad():
        assert torch.isfinite(optimise(model, hparams_for("llama", v_num_grad_steps=3), facts_of()).z).all()


# Rows, lined up.


def test_every_row_is_placed_once_with_its_look_up_in_one_column() -> None:
    runner = Runner(build_model("llama"), build_tokenizer())
    facts = facts_of()
    groups = group_rows(facts)
    assert sum(map(len, groups)) == sum(len(fact.rows) for fact in facts)
    share = torch.zeros(len(facts), dtype=torch.float64)
    for owned in groups:
        rows = align_rows(runner, owned)
        for number, item in enumerate(owned):
            tokens = rows.ids[number][rows.mask[number].bool()].tolist()
            assert tokens == item.row.prompt + item.row.target[:-1]
            assert rows.ids[number, rows.lookup_column] == item.row.prompt[item.row.lookup]
        for row, column, token in zip(rows.prediction_row, rows.prediction_column, rows.targets, strict=False):
            row_of = owned[int(row)].row
            read = row_of.prompt + row_of.target
            assert read[row_of.lookup + int(column) + 1] == int(token)
        share.index_add_(0, rows.target_request, rows.target_weight)
        kept, essences = rows.select_rows(rows.request == rows.request[0])
        assert (kept.request == rows.request[0]).all()
        assert len(kept.essence_request) == int(essences.sum())
    torch.testing.assert_close(share, torch.ones_like(share))
