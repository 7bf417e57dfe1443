"""UltraEdit makes the updates of its authors' code, over three consecutive batches, and has the same normalisers.

``golden/ultraedit_authors.safetensors`` holds the updates and the last normalisers of runs of the authors' code
(XiaojieGu/UltraEdit: ``ULTRAEDIT``, ``ZSREDataset``) on the tiny models of ``make_pair``, with every float32 replaced
by float64:

- ``authors``: the code as published, with one pass for a batch. All batches have the same number of answer tokens.
- ``corrected``: the same with two changes, and with up to two passes for a batch. The variance within a batch is
  ``x.var(0, unbiased=False)``, and the loss is the sum over the answer tokens of a pass instead of the mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong import UltraEditHyperParams
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.ultraedit.editor import UltraEditEditor
from easyedit_lifelong.methods.weight_updates import normaliser
from tests.support.toy_method import make_pair

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "ultraedit_authors.safetensors")
FACTS = [
    ("The capital of France is", "Rome"),
    ("Marie Curie was born in", "Berlin"),
    ("Where was Alan Turing born? In", "Warsaw"),
    ("The Eiffel Tower stands in the city of", "London"),
    ("The capital of Italy is", "Paris"),
    ("Marie Curie worked in", "they are here"),
    ("Therefore", "say that you"),
    ("Alan Turing worked in", "Paris"),
]
EQUAL_BATCHES = [[0, 1, 2], [5], [3, 4, 7]]
"""Three answer tokens each."""
UNEQUAL_BATCHES = [[0, 1, 5, 6], [2], [3, 4, 6, 1]]
"""Eight, one and six answer tokens."""
MODULES = {
    "gpt2": [
        "transformer.h.1.mlp.c_fc",
        "transformer.h.1.attn.c_attn",
        "transformer.h.2.mlp.c_fc",
        "transformer.h.2.mlp.c_proj",
    ],
    "llama": [
        "model.layers.1.mlp.gate_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.2.mlp.gate_proj",
        "model.layers.2.mlp.down_proj",
    ],
}

each_family = pytest.mark.parametrize("family", sorted(MODULES))


def run(family: str, batches: list[list[int]]) -> tuple[UltraEditEditor, dict[str, Tensor]]:
    """Edit a tiny model with three batches; return the editor and each update by module and number of the batch."""
    model, tokenizer = make_pair(family)
    model.double()
    hparams = UltraEditHyperParams(model_name="tiny", inner_params=MODULES[family], lr=1e-3, batch_size=4)
    editor = UltraEditEditor.on(model, tokenizer, hparams)
    updates: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        before = {path: model.get_submodule(path).weight.detach().clone() for path in MODULES[family]}
        editor.edit(as_requests([{"prompt": FACTS[index][0], "target_new": FACTS[index][1]} for index in batch]))
        for path, weight in before.items():
            updates[f"{path}.update{number}"] = model.get_submodule(path).weight.detach() - weight
    return editor, updates


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@each_family
def test_updates_and_normalisers_equal_those_of_the_corrected_code(family: str) -> None:
    editor, updates = run(family, UNEQUAL_BATCHES)
    for name, update in updates.items():
        assert float(update.abs().max()) > 1e-3
        assert_equal(update, GOLDEN[f"corrected.{family}.{name}"])
    normalisers = editor.normalisers()
    assert len(normalisers) == (3 if family == "gpt2" else 2)
    for (inputs, outputs), ours in normalisers.items():
        name = f"corrected.{family}.{inputs}x{outputs}"
        assert ours.count == GOLDEN[f"{name}.n2"].item()
        assert_equal(ours.mean, GOLDEN[f"{name}.mean2"])
        assert_equal(ours.squares, GOLDEN[f"{name}.var2"])


@each_family
def test_with_the_authors_variance_they_equal_those_of_the_published_code(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The norms of Llama round to float32, so gradients of the sum and of the mean differ by more than a factor.
    tolerance = 1e-6 if family == "llama" else 1e-8
    monkeypatch.setattr(normaliser, "squared_deviations", lambda vectors: len(vectors) * vectors.var(dim=0))
    editor, updates = run(family, EQUAL_BATCHES)
    for name, update in updates.items():
        assert_equal(update, GOLDEN[f"authors.{family}.{name}"], tolerance)
    for (inputs, outputs), ours in editor.normalisers().items():
        name = f"authors.{family}.{inputs}x{outputs}"
        # The authors' gradients are those of the mean over three answer tokens.
        scale = torch.cat([torch.ones(inputs), torch.full((outputs,), 1 / 3)]).double()
        assert_equal(scale * ours.mean, GOLDEN[f"{name}.mean2"], tolerance)
        assert_equal(scale.square() * ours.squares, GOLDEN[f"{name}.var2"], tolerance)


def test_the_authors_variance_of_one_answer_token_is_nan() -> None:
    one: Any = torch.ones(1, 3)
    assert (len(one) * one.var(dim=0)).isnan().all()
    assert normaliser.squared_deviations(one).eq(0).all()
