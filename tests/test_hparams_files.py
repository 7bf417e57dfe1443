"""Each shipped hyperparameter file fits the shape of its real model, which is built on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    T5Config,
)

from easyedit_lifelong import (
    AlphaEditHyperParams,
    CoachHookHyperParams,
    GraceHyperParams,
    NativeMemitHyperParams,
    NativeRomeHyperParams,
    NeuralDBHyperParams,
    UltraEditHyperParams,
    get_plugins,
)
from easyedit_lifelong.methods.coachhook.subject_scope import check_comes_first
from easyedit_lifelong.methods.grace.check import check_layer
from easyedit_lifelong.methods.grace.named_layers import find_answer_layer
from easyedit_lifelong.methods.locate_edit.check import check_model
from easyedit_lifelong.methods.weight_updates.check import check_block_projections, check_projections
from easyedit_lifelong.models.anatomy import anatomy_of, projection_shape
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of, kind_of_config
from easyedit_lifelong.models.modules import find_module

FOLDER = Path(__file__).parents[1] / "hparams"

CONFIGS: dict[str, PretrainedConfig] = {
    "smollm2-135m": LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "gemma3-270m": Gemma3TextConfig(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        vocab_size=262144,
        tie_word_embeddings=True,
    ),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "gpt-j-6B": GPTJConfig(n_embd=4096, n_layer=28, n_head=16, rotary_dim=64, vocab_size=50400),
    "llama-7b": LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32),
    "llama3.2-3b": LlamaConfig(
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=True,
    ),
    "qwen2.5-7b": Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
    "mistral-7b": MistralConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    ),
}

# Not causal language models: only GRACE edits them. T5's shape is that of version 1.1, as in GRACE's paper.
OTHER_KINDS: dict[str, PretrainedConfig] = {
    "t5-small": T5Config(
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        architectures=["T5ForConditionalGeneration"],
    ),
    "scotus-bert": BertConfig(architectures=["BertForSequenceClassification"]),
}
OTHER_SHAPES = {"t5-small": (1024, 512), "scotus-bert": (3072, 768)}

# (inputs, outputs) of the layer that each file names: the sizes of a key and a value there.
SHAPES = {
    "smollm2-135m": (1536, 576),
    "gemma3-270m": (2048, 640),
    "gpt2-xl": (1600, 6400),
    "gpt-j-6B": (16384, 4096),
    "llama-7b": (11008, 4096),
    "llama3.2-3b": (8192, 3072),
    "qwen2.5-7b": (18944, 3584),
    "mistral-7b": (14336, 4096),
}

# Files for edits by subject: the model; the key layer's (inputs, outputs); the sizes of a gate's key and of a value.
BY_SUBJECT = {
    "smollm2-135m-subject": ("smollm2-135m", (576, 1536), (576, 576)),
    "gemma3-270m-subject": ("gemma3-270m", (640, 2048), (640, 640)),
}


def test_every_file_has_a_real_architecture_to_be_checked_against() -> None:
    files = {file.stem for file in (FOLDER / "GRACE").glob("*.yaml")}
    assert files == {*CONFIGS, *OTHER_KINDS, *BY_SUBJECT}
    assert {*CONFIGS, *OTHER_KINDS} == {*SHAPES, *OTHER_SHAPES}


@pytest.mark.parametrize("name", sorted(OTHER_KINDS))
def test_a_grace_file_for_t5_or_bert_names_a_layer_of_the_right_shape(name: str) -> None:
    hparams = GraceHyperParams.from_hparams(f"GRACE/{name}")
    auto = {ModelKind.SEQ2SEQ: AutoModelForSeq2SeqLM, ModelKind.CLASSIFIER: AutoModelForSequenceClassification}
    with torch.device("meta"):
        model = auto[kind_of_config(OTHER_KINDS[name])].from_config(OTHER_KINDS[name])
    assert kind_of(model) is kind_of_config(OTHER_KINDS[name])
    check_layer(model, None, hparams)
    _, layer = find_module(model, hparams.inner_params[0])
    assert projection_shape(layer) == OTHER_SHAPES[name]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_grace_file_names_a_layer_of_the_right_shape(name: str) -> None:
    hparams = GraceHyperParams.from_hparams(FOLDER / "GRACE" / f"{name}.yaml")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[name])
    path, layer = find_module(model, hparams.inner_params[0])
    assert projection_shape(layer) == SHAPES[name]
    anatomy = anatomy_of(model)
    assert anatomy is not None
    assert len(anatomy.blocks) == CONFIGS[name].num_hidden_layers
    assert anatomy.tied == bool(CONFIGS[name].tie_word_embeddings)
    assert anatomy.final_norm is not None
    block = anatomy.block_of(path)
    # In the last block, a value could affect only the first token of an answer.
    assert block is not None
    assert block < len(anatomy.blocks) - 1


@pytest.mark.parametrize("name", sorted(BY_SUBJECT))
def test_a_file_for_edits_by_subject_names_layers_of_the_right_shape(name: str) -> None:
    hparams = GraceHyperParams.from_hparams(f"GRACE/{name}")
    config, keys, (gate, value) = BY_SUBJECT[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[config])
    check_layer(model, None, hparams)
    assert hparams.by_subject
    key_layer, answer_layer = find_module(model, hparams.inner_params[0]), find_answer_layer(model, hparams)
    anatomy = anatomy_of(model)
    assert answer_layer is not None
    assert anatomy is not None
    assert projection_shape(key_layer[1]) == keys
    assert {projection_shape(layer)[0] for layer in answer_layer[1].children() if hasattr(layer, "weight")} >= {gate}
    assert projection_shape(answer_layer[1].down_proj)[1] == value
    first, last = (anatomy.block_of(path) for path in (key_layer[0], answer_layer[0]))
    assert first is not None
    assert last is not None
    assert first < last < len(anatomy.blocks) - 1
    assert hparams.mom2_n_tokens == 10 * keys[0]


# (inputs, outputs) of the MLP's projection back to the model's width.
PROJECTIONS = {**SHAPES, "gpt2-xl": (6400, 1600), "llama3-8b": (14336, 4096)}
LLAMA3_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)
LOCATE_EDIT_CONFIGS = {**CONFIGS, "llama3-8b": LLAMA3_8B}
LOCATE_EDIT_CLASSES = {
    "AlphaEdit": AlphaEditHyperParams,
    "CoachHook": CoachHookHyperParams,
    "MEMIT-native": NativeMemitHyperParams,
    "ROME-native": NativeRomeHyperParams,
    "NeuralDB": NeuralDBHyperParams,
}
LOCATE_EDIT_FILES = sorted(
    (method, file.stem) for method in LOCATE_EDIT_CLASSES for file in (FOLDER / method).glob("*.yaml")
)


def model_of(name: str) -> str:
    """Return the model of a file, whose name can end with what else distinguishes it."""
    return name.removesuffix("-codebook")


def test_every_coachhook_file_has_a_real_architecture_to_be_checked_against() -> None:
    assert {model_of(name) for method, name in LOCATE_EDIT_FILES if method == "CoachHook"} == set(CONFIGS)


@pytest.mark.parametrize(("model_name", "shape"), [("smollm2-135m", (576, 1536)), ("gemma3-270m", (640, 2048))])
def test_the_scope_layer_of_a_codebook_file_comes_before_the_edited_projections(
    model_name: str, shape: tuple[int, int]
) -> None:
    hparams = CoachHookHyperParams.from_hparams(f"CoachHook/{model_name}-codebook")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LOCATE_EDIT_CONFIGS[model_name])
    path, layer = find_module(model, hparams.scope_path)
    check_comes_first(model, path, layer, find_module(model, hparams.rewrite_modules[0])[1])
    assert projection_shape(layer) == shape


@pytest.mark.parametrize(("method", "name"), LOCATE_EDIT_FILES)
def test_a_file_of_a_locate_edit_method_names_projections_of_the_right_shape(method: str, name: str) -> None:
    hparams = LOCATE_EDIT_CLASSES[method].from_hparams(f"{method}/{name}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LOCATE_EDIT_CONFIGS[model_of(name)])
    check_model(model, None, hparams)
    anatomy = anatomy_of(model)
    assert anatomy is not None
    last = len(anatomy.blocks) - 1
    assert hparams.edited_layers[-1] < last  # no later block could read a target vector of the last one
    for number, module_name in zip(hparams.edited_layers, hparams.rewrite_modules, strict=True):
        path, module = find_module(model, module_name)
        assert projection_shape(module) == PROJECTIONS[model_of(name)]
        assert anatomy.block_of(path) == number
        assert find_module(model, hparams.layer_module_tmp.format(number))[1] is anatomy.blocks[number]
        for template in (hparams.mlp_module_tmp, hparams.attn_module_tmp):
            assert not template or find_module(model, template.format(number))
    assert hparams.v_loss_layer in (None, last)
    if hparams.ln_f_module:
        assert find_module(model, hparams.ln_f_module)[1] is anatomy.final_norm
    if hparams.lm_head_module:
        assert find_module(model, hparams.lm_head_module)[1].weight.shape == model.get_output_embeddings().weight.shape


def model_with_projections(name: str, hparams: Any) -> tuple[Any, Any]:
    """Return a model on the meta device that has the projections of ``inner_params``, and its anatomy."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LOCATE_EDIT_CONFIGS[name])
    check_block_projections(model, hparams, "inner_params")
    anatomy = anatomy_of(model)
    assert anatomy is not None
    return model, anatomy


@pytest.mark.parametrize("name", sorted(file.stem for file in (FOLDER / "UltraEdit").glob("*.yaml")))
def test_an_ultraedit_file_names_projections_of_the_mlp_below_the_last_block(name: str) -> None:
    hparams = UltraEditHyperParams.from_hparams(f"UltraEdit/{name}")
    model, anatomy = model_with_projections(name, hparams)
    for module_name in hparams.inner_params:
        path, module = find_module(model, module_name)
        assert projection_shape(module) in (PROJECTIONS[name], PROJECTIONS[name][::-1])
        block = anatomy.block_of(path)
        assert block is not None
        assert block < len(anatomy.blocks) - 1


@pytest.mark.parametrize("method", ["IKE-native", "SERAC-native"])
@pytest.mark.parametrize("name", ["smollm2-135m", "gpt2-xl", "gpt-j-6B", "llama3-8b", "qwen2.5-7b"])
def test_a_file_of_a_retrieval_method_names_a_block_of_a_model_that_reads_texts(method: str, name: str) -> None:
    registered = get_plugins().methods.get(method)
    hparams = registered.hparams_class.from_hparams(f"{method}/{name}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LOCATE_EDIT_CONFIGS[name])
    assert registered.check is not None
    registered.check(model, None, hparams)


@pytest.mark.parametrize("method", ["MEND", "KE", "ENN"])
@pytest.mark.parametrize("name", sorted(file.stem for file in (FOLDER / "MEND").glob("*.yaml")))
def test_a_file_of_a_trained_method_names_the_mlps_of_the_last_three_blocks(method: str, name: str) -> None:
    hparams = get_plugins().methods.get(method).hparams_class.from_hparams(f"{method}/{name}")
    model, anatomy = model_with_projections(name, hparams)
    last = len(anatomy.blocks) - 1
    edited = [find_module(model, module_name) for module_name in hparams.inner_params]
    assert {anatomy.block_of(path) for path, _ in edited} == {last - 2, last - 1, last}
    assert {projection_shape(module) for _, module in edited} == {PROJECTIONS[name], PROJECTIONS[name][::-1]}
    assert hparams.archive == f"runs/{method.lower()}-{name}"


FINE_TUNING = ("FT-native", "FT-L", "FT-EWC", "FT-Retrain", "LocFT-BF")
FINE_TUNED_MODELS = ("smollm2-135m", "gpt2-xl", "gpt-j-6B", "llama3-8b", "qwen2.5-7b")


@pytest.mark.parametrize("name", FINE_TUNED_MODELS)
def test_files_of_fine_tuning_methods_name_projections_of_mlps(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LOCATE_EDIT_CONFIGS[name])
    for method in FINE_TUNING:
        assert {file.stem for file in (FOLDER / method).glob("*.yaml")} == set(FINE_TUNED_MODELS)
        hparams = get_plugins().methods.get(method).hparams_class.from_hparams(f"{method}/{name}")
        assert hparams.alg_name == method
        check_projections(model, hparams)
        _, module = find_module(model, hparams.rewrite_modules[0])
        assert projection_shape(module) in (PROJECTIONS[name], PROJECTIONS[name][::-1])


@pytest.mark.parametrize("name", FINE_TUNED_MODELS)
def test_files_of_trained_adaptors_name_a_projection_of_an_mlp_below_the_last_block(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LOCATE_EDIT_CONFIGS[name])
    anatomy = anatomy_of(model)
    assert anatomy is not None
    for method in ("Defer-native", "Memory"):
        assert {file.stem for file in (FOLDER / method).glob("*.yaml")} == set(FINE_TUNED_MODELS)
        hparams = get_plugins().methods.get(method).hparams_class.from_hparams(f"{method}/{name}")
        check_block_projections(model, hparams, "inner_params")
        path, module = find_module(model, hparams.inner_params[0])
        assert projection_shape(module) in (PROJECTIONS[name], PROJECTIONS[name][::-1])
        block = anatomy.block_of(path)
        assert block is not None
        assert block < len(anatomy.blocks) - 1


def test_memit_native_files_have_the_values_of_easyedits_memit_files() -> None:
    names = {file.name for file in (FOLDER / "MEMIT").glob("*.yaml")}
    assert {file.name for file in (FOLDER / "MEMIT-native").glob("*.yaml")} >= names
    for name in sorted(names):
        easyedit_values, native_values = (
            yaml.safe_load((FOLDER / kind / name).read_text()) for kind in ("MEMIT", "MEMIT-native")
        )
        hparams = NativeMemitHyperParams.from_hparams(f"MEMIT-native/{name}")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(CONFIGS[name.removesuffix(".yaml")])
        check_model(model, None, hparams)
        assert hparams.mom2_n_tokens == 10 * projection_shape(find_module(model, hparams.rewrite_modules[0])[1])[0]
        differing = {key for key, value in easyedit_values.items() if native_values.get(key) != value}
        assert differing == {"alg_name", "device", "mom2_n_samples"}


def test_shipped_files_are_found_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert GraceHyperParams.from_hparams("GRACE/gpt2-xl").inner_params == ["transformer.h[35].mlp.c_fc.weight"]
