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

KINDS = sorted(NAMES)


@pytest.fixture
def memit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """EasyEdit's own MEMIT, with second moments of random keys."""
    if find_easyedit() is None:
        pytest.skip("EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)")
    install()
    for module in (easyedit_methods, requirements):
        monkeypatch.setattr(module, "second_moments", lambda model, tok, hparams: random_moments(model, hparams))
    return easyedit_method("MEMIT")


def native(kind: str, **options: Any) -> NativeMemitHyperParams:
    return NativeMemitHyperParams(**{**VALUES, **NAMES[kind], "alg_name": "MEMIT-native", **options})


def native_editor(kind: str, templates: Any, hparams: NativeMemitHyperParams) -> MemitEditor:
    model, tokenizer = make_pair(kind)
    moments = {name: SecondMoment(moment, 10**6, "a test") for name, moment in random_moments(model, hparams).items()}
    return MemitEditor.on(model, tokenizer, hparams, moments, templates)


def templates_of(model: Any) -> list[list[str]]:
    found = (v for (_, name), v in model_state_of(model).caches.items() if name == "CONTEXT_TEMPLATES_CACHE" and v)
    return next(found)


def weights_of(model: Any, hparams: Any) -> dict[str, Tensor]:
    return {name: model.get_submodule(name).weight.detach().clone() for name in hparams.rewrite_modules}


def assert_same_updates(kind: str, ours: Any, theirs: Any, hparams: NativeMemitHyperParams, off: float) -> None:
    """Compare updates, not weights: each entry to within a share of its layer's largest."""
    before = weights_of(make_pair(kind)[0], hparams)
    for name, weight in weights_of(theirs, hparams).items():
        expected, update = weight - before[name], weights_of(ours, hparams)[name] - before[name]
        largest = float(expected.abs().max())
        assert largest > 1e-3, "the edit did nothing"
        assert float((update - expected).abs().max()) < off * largest, name


@pytest.mark.parametrize("kind", KINDS)
def test_updates_of_two_batches_given_target_vectors(memit: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = make_pair(kind)
    z = torch.randn(3, model.config.hidden_size, generator=torch.Generator().manual_seed(2)) * 3
    rows = iter(z)
    main = sys.modules["easyeditor.models.memit.memit_main"]
    monkeypatch.setattr(main, "compute_z", lambda *_, **__: next(rows).clone())
    values = {name: value for name, value in {**VALUES, **NAMES[kind]}.items()}
    theirs = memit.hparams_class(**values)
    memit.apply(model, tokenizer, REQUESTS[:2], theirs)
    memit.apply(model, tokenizer, REQUESTS[2:], theirs)

    hparams = native(kind, batch_size=2)
    editor = native_editor(kind, templates_of(model), hparams)
    editor.edit(as_requests(REQUESTS), z)
    assert len(editor.state.batches) == 2
    assert_same_updates(kind, editor.model, model, hparams, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_given_the_target_vectors_that_it_computes_itself(
    memit: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ours, computed from the same templates, come to the same."""
    main = sys.modules["easyeditor.models.memit.memit_main"]
    found: list[Tensor] = []
    original = main.compute_z

    def keep(*args: Any, **kwargs: Any) -> Tensor:
        found.append(original(*args, **kwargs).detach().clone())
        return found[-1]

    monkeypatch.setattr(main, "compute_z", keep)
    model, tokenizer = make_pair(kind)
    options = {"v_num_grad_steps": 5, "v_lr": 0.05}
    memit.apply(model, tokenizer, REQUESTS, memit.hparams_class(**{**VALUES, **NAMES[kind], **options}))
    templates = templates_of(model)

    hparams = native(kind, **options)
    given = native_editor(kind, templates, hparams)
    given.edit(as_requests(REQUESTS), torch.stack(found))
    assert_same_updates(kind, given.model, model, hparams, 1e-4)

    own = native_editor(kind, templates, hparams)
    own.edit(as_requests(REQUESTS))
    assert_same_updates(kind, own.model, model, hparams, 1e-2)
