"""CoachHook equals the authors' code: keys, residuals, updates, C_accu, α, hook decisions, target vectors, losses.

``golden/coachhook_authors.*`` was written by running the authors' code (Syon-Li/CoachHook, with EasyEdit's release)
on the tiny float64 models built here, whose weights are a formula. The JSON file lists the parts of their code that
were switched off.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from easyedit_lifelong.data.request import EditRequest
from tests.support.tiny_models import build_tokenizer

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "coachhook_authors.json").read_text(encoding="utf-8"))
SETTINGS = GOLDEN["settings"]
MODELS = sorted(GOLDEN["models"])
BATCHES = range(len(GOLDEN["requests"]) // SETTINGS["batch_size"])

WIDTH, INNER, BLOCKS = 12, 16, 5
NAMES = {
    "llama": {"layer_module_tmp": "model.layers.{}", "rewrite_module_tmp": "model.layers.{}.mlp.down_proj"},
    "gpt2": {"layer_module_tmp": "transformer.h.{}", "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj"},
}

close = functools.partial(torch.testing.assert_close, rtol=1e-6, atol=1e-9)


def noise(salt: int, *shape: int) -> np.ndarray:
    """Return numbers in [-1, 1) from integer arithmetic (SplitMix64), which are the same on every machine."""
    with np.errstate(over="ignore"):
        x = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + (np.uint64(salt) << np.uint64(32))
        x = x * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).reshape(shape) / 2.0**52 - 1.0


class _Norm(torch.nn.Module):
    """Llama's norm, computed in the dtype of the input and not in float32."""

    def __init__(self, weight: torch.nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * hidden * (hidden.square().mean(-1, keepdim=True) + self.eps).rsqrt()


def formula_model(family: str) -> Any:
    """Build a family's tiny float64 model with the weights of the golden runs."""
    shape = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=WIDTH,
                intermediate_size=INNER,
                num_hidden_layers=BLOCKS,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=64,
                tie_word_embeddings=True,
                **shape,
            )
        )
    else:
        model = GPT2LMHeadModel(
            GPT2Config(n_embd=WIDTH, n_inner=INNER, n_layer=BLOCKS, n_head=2, n_positions=64, **shape)
        )
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                setattr(module, name, _Norm(child.weight, child.variance_epsilon))
    model = model.double().eval()
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
            numbers = torch.from_numpy(noise(k + 1, *parameter.shape))
            if parameter.dim() > 1:
                scale = 1.5 if "embed" in name or ".wt" in name else 2.5 / parameter.shape[-1] ** 0.5
                parameter.copy_(numbers * scale)
            else:
                parameter.copy_(0.1 * numbers + (0.0 if name.endswith("bias") else 1.0))
    return model


def second_moment(layer: int) -> Tensor:
    """Return a well-conditioned E[kkᵀ], shape ``(inner, inner)``."""
    a = noise(1000 + layer, INNER, INNER)
    return torch.from_numpy(0.3 * np.eye(INNER) + a @ a.T / INNER)


def target_vector(case_id: int) -> Tensor:
    """Return the target vector z of a request, shape ``(width,)``."""
    return torch.from_numpy(3.0 * noise(2000 + case_id, WIDTH))


@functools.cache
def _golden_tensors() -> dict[str, Tensor]:
    return load_file(FOLDER / "coachhook_authors.safetensors")


def golden_tensor(family: str, run: str, *path: object) -> Tensor:
    """Return what the authors' code computed for a family in one of the golden runs."""
    return _golden_tensors()["/".join(map(str, (family, run, *path)))]


def editor_on(family: str, run: str, templates: list[list[str]] | None = None, **changes: Any) -> Any:
    from easyedit_lifelong.covariance import SecondMoment
    from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
    from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor

    names = (
        "batch_size",
        "alpha_z",
        "v_num_grad_steps",
        "v_lr",
        "v_loss_layer",
        "v_weight_decay",
        "clamp_norm_factor",
        "kl_factor",
    )
    values = {**{name: SETTINGS[name] for name in names}, **NAMES[family], **changes}
    layers = GOLDEN["models"][family][run]["layers"]
    hparams = CoachHookHyperParams(
        model_name="golden", layers=layers, mom2_update_weight=SETTINGS["weight"], wohk=run == "wohk", **values
    )
    moments = {
        path: SecondMoment(second_moment(layer), 10**6, "golden")
        for layer, path in zip(layers, hparams.rewrite_modules, strict=True)
    }
    templates = SETTINGS["templates"] if templates is None else templates
    return CoachHookEditor.on(formula_model(family), build_tokenizer(), hparams, moments, templates)


def edit_batch(editor: Any, batch: int) -> None:
    size = SETTINGS["batch_size"]
    cases = range(batch * size, batch * size + size)
    requests = [EditRequest.from_dict(GOLDEN["requests"][n], "golden", case_id=n) for n in cases]
    editor.edit(requests, targets=torch.stack([target_vector(n) for n in cases]))


def edited(family: str, run: str) -> Any:
    """Return the editor after all batches of a golden run."""
    editor = editor_on(family, run)
    for batch in BATCHES:
        edit_batch(editor, batch)
    return editor


def probes() -> list[str]:
    return [record["prompt"] for record in GOLDEN["requests"]] + GOLDEN["probes"]


@torch.no_grad()
def answer(editor: Any, prompt: str) -> tuple[Tensor, dict[str, list[int]]]:
    """Return the logits at a prompt's end, and for each projection the tokens at which a hook replaced its output."""
    replaced: dict[str, list[int]] = {}

    def record_replaced(path: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            replaced[path] = (output != module.forward(args[0])).any(dim=-1)[0].nonzero().flatten().tolist()

        return hook

    handles = [editor.model.get_submodule(path).register_forward_hook(record_replaced(path)) for path in editor.hooks]
    try:
        ids = torch.tensor([editor.tokenizer(prompt)["input_ids"]])
        return editor.model(input_ids=ids).logits[0, -1], replaced
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("run", ["several", "one", "wohk"])
@pytest.mark.parametrize("family", MODELS)
def test_updates_and_alpha_of_three_batches_equal_those_of_the_authors_code(family: str, run: str) -> None:
    editor = editor_on(family, run)
    layers = GOLDEN["models"][family][run]["layers"]
    for batch in BATCHES:
        edit_batch(editor, batch)
        for number, (layer, path) in enumerate(zip(layers, editor.hooks, strict=True)):
            update = editor.state.batches[batch].layers[path]
            close(update.keys.T, golden_tensor(family, run, batch, layer, "keys"))
            close(update.residual.T * (len(layers) - number), golden_tensor(family, run, batch, layer, "residuals"))
            close(update.matrix(), golden_tensor(family, run, batch, layer, "delta"))
            close(editor._solvers[path].matrix(), golden_tensor(family, run, batch, layer, "C_accu"))
            if run != "wohk":
                alpha = GOLDEN["models"][family][run]["alpha"][batch][str(layer)]
                assert editor.alphas[path] == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("run", ["several", "one"])
@pytest.mark.parametrize("family", MODELS)
def test_hook_decisions_and_logits_equal_those_of_the_authors_code(family: str, run: str) -> None:
    from easyedit_lifelong.methods.coachhook.z_scores import z_scores

    editor = edited(family, run)
    scores = z_scores(editor.model, editor.tokenizer, probes())
    golden = GOLDEN["models"][family][run]
    for n, prompt in enumerate(probes()):
        logits, replaced = answer(editor, prompt)
        close(logits, golden_tensor(family, run, "probe", n, "logits"))
        for layer, path in zip(golden["layers"], editor.hooks, strict=True):
            close(scores[path][n], golden_tensor(family, run, "probe", n, layer, "z_scores"))
            assert replaced[path] == golden["decisions"][str(layer)][n], (prompt, layer)


@pytest.mark.parametrize("family", MODELS)
def test_logits_without_hooks_equal_those_of_the_authors_code(family: str) -> None:
    editor = edited(family, "wohk")
    for n, prompt in enumerate(probes()):
        close(answer(editor, prompt)[0], golden_tensor(family, "wohk", "probe", n, "logits"))


@pytest.mark.parametrize("family", MODELS)
def test_without_hooks_updates_differ_from_the_authors_code_after_the_first_batch(family: str) -> None:
    """The authors' code weighs keys of earlier edits as it weighs old knowledge; ours follows C_accu of the paper."""
    differences = GOLDEN["models"][family]["wohk_authors"]["largest_difference_of_delta"]
    assert set(differences["batch 0"].values()) == {0.0}
    editor = edited(family, "wohk")
    for batch in BATCHES:
        for layer, path in zip(GOLDEN["models"][family]["wohk"]["layers"], editor.hooks, strict=True):
            ours = editor.state.batches[batch].layers[path].matrix()
            if batch:
                theirs = golden_tensor(family, "wohk_authors", batch, layer, "delta")
                share = float((ours - theirs).abs().max() / theirs.abs().max())
                assert share == pytest.approx(differences[f"batch {batch}"][str(layer)], rel=1e-5)


@pytest.mark.parametrize("case", range(len(GOLDEN["models"]["llama"]["values"])))
@pytest.mark.parametrize("family", MODELS)
def test_target_vectors_and_losses_equal_those_of_the_authors_code(family: str, case: int) -> None:
    from easyedit_lifelong.methods.locate_edit.target_vectors import optimise_targets

    golden = GOLDEN["models"][family]["values"][case]
    changes = {name: golden[name] for name in SETTINGS if name in golden and name != "templates"}
    editor = editor_on(family, "several", golden["templates"], **changes)
    if golden["hooks_of_run_several"]:
        for batch in BATCHES:
            edit_batch(editor, batch)
    request = EditRequest.from_dict(golden["request"], "golden", case_id="value")
    facts, layer = [editor.encode(request)], editor.hparams.edited_layers[-1]

    outcome = optimise_targets(editor._runner, facts, editor.hparams, layer)
    close(outcome.z[0], golden_tensor(family, "values", case, "z"))
    assert outcome.steps == [len(golden["steps"]) - 1]
    # Run again with fewer steps, the optimisation reports the loss of each step.
    for count, step in enumerate(golden["steps"], start=1):
        editor.hparams.v_num_grad_steps = count
        outcome = optimise_targets(editor._runner, facts, editor.hparams, layer)
        assert outcome.losses == pytest.approx([step["loss"]], rel=1e-6)
        if count == 1:
            close(outcome.z[0], golden_tensor(family, "values", case, "init"))
