"""Given the same target vectors, the native MEMIT writes what EasyEdit's own MEMIT writes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import NativeMemitHyperParams
from easyedit_lifelong.bridge import easyedit_method, easyedit_methods, find_easyedit, install, requirements
from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.memit.editor import MemitEditor
from tests.support.easyedit_memit import NAMES, REQUESTS, VALUES, random_moments
from tests.support.toy_method import make_pair

FAMILIES = sorted(NAMES)


@pytest.fixture
def memit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """EasyEdit's own MEMIT, with second moments of random keys."""
    if find_easyedit() is None:
        pytest.skip("EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)")
    install()
    for module in (easyedit_methods, requirements):
        monkeypatch.setattr(module, "second_moments", lambda model, tok, hparams: random_moments(model, hparams))
    return easyedit_method("MEMIT")


def native(family: str, **options: Any) -> NativeMemitHyperParams:
    return NativeMemitHyperParams(**{**VALUES, **NAMES[family], "alg_name": "MEMIT-native", **options})


def native_editor(family: str, templates: Any, hparams: NativeMemitHyperParams) -> MemitEditor:
    model, tokenizer = make_pair(family)
    moments = {name: SecondMoment(moment, 10**6, "a test") for name, moment in random_moments(model, hparams).items()}
    return MemitEditor.on(model, tokenizer, hparams, moments, templates)


def templates_of(model: Any) -> list[list[str]]:
    """Return the context templates that EasyEdit's MEMIT generated for a model."""
    caches = model_state_of(model).caches
    return next(value for (_, name), value in caches.items() if name == "CONTEXT_TEMPLATES_CACHE" and value)


def weights_of(model: Any, hparams: Any) -> dict[str, Tensor]:
    return {name: model.get_submodule(name).weight.detach().clone() for name in hparams.rewrite_modules}


def assert_same_updates(family: str, ours: Any, theirs: Any, hparams: NativeMemitHyperParams, tolerance: float) -> None:
    """Compare the updates of two models: each entry must differ by less than a share of its layer's largest entry."""
    before = weights_of(make_pair(family)[0], hparams)
    for name, weight in weights_of(theirs, hparams).items():
        expected, update = weight - before[name], weights_of(ours, hparams)[name] - before[name]
        largest = float(expected.abs().max())
        assert largest > 1e-3, "the edit did nothing"
        assert float((update - expected).abs().max()) < tolerance * largest, f"the updates of {name} differ"


@pytest.mark.parametrize("family", FAMILIES)
def test_given_the_same_target_vectors_two_batches_give_the_same_updates(
    memit: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = make_pair(family)
    targets = torch.randn(3, model.config.hidden_size, generator=torch.Generator().manual_seed(2)) * 3
    rows = iter(targets)
    main = sys.modules["easyeditor.models.memit.memit_main"]
    monkeypatch.setattr(main, "compute_z", lambda *_, **__: next(rows).clone())
    easyedit_hparams = memit.hparams_class(**VALUES, **NAMES[family])
    memit.apply(model, tokenizer, REQUESTS[:2], easyedit_hparams)
    memit.apply(model, tokenizer, REQUESTS[2:], easyedit_hparams)

    hparams = native(family, batch_size=2)
    editor = native_editor(family, templates_of(model), hparams)
    editor.edit(as_requests(REQUESTS), targets)
    assert len(editor.state.batches) == 2
    assert_same_updates(family, editor.model, model, hparams, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_target_vectors_from_the_same_templates_give_the_same_updates(
    memit: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With EasyEdit's target vectors the updates are equal; with our own from the same templates, nearly so."""
    main = sys.modules["easyeditor.models.memit.memit_main"]
    targets: list[Tensor] = []
    compute_z = main.compute_z

    def record(*args: Any, **kwargs: Any) -> Tensor:
        targets.append(compute_z(*args, **kwargs).detach().clone())
        return targets[-1]

    monkeypatch.setattr(main, "compute_z", record)
    model, tokenizer = make_pair(family)
    options = {"v_num_grad_steps": 5, "v_lr": 0.05}
    memit.apply(model, tokenizer, REQUESTS, memit.hparams_class(**{**VALUES, **NAMES[family], **options}))
    templates = templates_of(model)

    hparams = native(family, **options)
    with_easyedits_targets = native_editor(family, templates, hparams)
    with_easyedits_targets.edit(as_requests(REQUESTS), torch.stack(targets))
    assert_same_updates(family, with_easyedits_targets.model, model, hparams, 1e-4)

    with_own_targets = native_editor(family, templates, hparams)
    with_own_targets.edit(as_requests(REQUESTS))
    assert_same_updates(family, with_own_targets.model, model, hparams, 1e-2)
