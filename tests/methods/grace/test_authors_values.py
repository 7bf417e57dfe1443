"""Golden values of the authors' code: equal decisions, radii, losses, keys and values.

``golden/grace_authors.json`` was written by running the authors' editor (Thartvigsen/GRACE,
``grace/editors/grace.py``) on the tiny GPT-2 built here, whose weights are a formula. The four edits
add a key, add another, expand the first, and split with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from easyedit_lifelong import GraceHyperParams
from easyedit_lifelong.methods.grace.codebook.decisions import as_label
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.training.train_batch import PendingEdit
from easyedit_lifelong.models.encoding import EncodedPair

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "grace_authors.json").read_text())


def formula_gpt2() -> Any:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=23, n_positions=32, n_embd=8, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0)
    ).eval()
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
            numbers = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + k * 1.3) * 0.4
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                numbers = 1 + 0.1 * numbers
            parameter.copy_(numbers.view_as(parameter).to(parameter.dtype))
    return model


class PaddingTokenizer:
    """All that an editor needs of a tokenizer if the requests are token ids."""

    pad_token_id = 0


@pytest.mark.parametrize("eps_expand", ["coverage", "moving_average"])
def test_the_codebook_equals_the_authors_after_every_edit(eps_expand: str) -> None:
    expected = GOLDEN["runs"][eps_expand]
    hparams = GraceHyperParams(
        model_name="golden",
        inner_params=["transformer.h[1].mlp.c_proj.weight"],
        eps_expand=eps_expand,
        reg=None,
        **GOLDEN["settings"],
    )
    editor = GraceEditor.on(formula_gpt2(), PaddingTokenizer(), hparams)
    for n, (edit, step) in enumerate(zip(GOLDEN["edits"], expected["steps"], strict=True)):
        value_pass = editor._passes.build(editor.adaptor, [EncodedPair(edit["prompt"], edit["target"])], 1, 0)
        (result,) = editor._train_and_insert(value_pass, [PendingEdit(as_label(edit["target"]), str(n), "golden", n)])
        assert editor.codebook is not None
        assert len(editor.codebook) == step["n"]
        torch.testing.assert_close(editor.codebook.radii.tolist(), step["radii"], rtol=0, atol=2e-6)
        # Their last recorded loss is before the last step; ours is after it.
        assert result.steps == GOLDEN["settings"]["n_iter"]
    keys, values = torch.tensor(expected["keys_first"]), torch.tensor(expected["values"])
    torch.testing.assert_close(editor.codebook.keys[:, :4], keys, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(editor.codebook.values, values, rtol=1e-4, atol=1e-4)


def test_first_and_last_loss_equal_the_authors() -> None:
    from easyedit_lifelong.methods.grace.training.optimise import train_values

    first = GOLDEN["runs"]["coverage"]["steps"][0]
    editor = GraceEditor.on(
        formula_gpt2(),
        PaddingTokenizer(),
        GraceHyperParams(model_name="golden", inner_params=["transformer.h[1].mlp.c_proj.weight"], reg=None),
    )
    pair = EncodedPair(**{k: GOLDEN["edits"][0][k] for k in ("prompt", "target")})
    value_pass = editor._passes.build(editor.adaptor, [pair], 1, 0)
    for steps, loss in ((0, first["first_loss"]), (11, first["last_loss"])):
        hparams = GraceHyperParams(
            model_name="golden",
            inner_params=["x"],
            reg=None,
            edit_lr=GOLDEN["settings"]["edit_lr"],
            n_iter=max(steps, 1),
        )
        hparams.n_iter = steps  # 0 steps give the loss before training; the constructor requires at least 1
        (trained,) = train_values(value_pass, value_pass.output, hparams, ["golden"], ["golden"])
        assert trained.loss == pytest.approx(loss, rel=1e-5)
