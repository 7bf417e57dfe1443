"""The causal model families of transformers that users bring: a tiny random model of each, and the layer to edit."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.support.tiny_models import VOCABULARY

_SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GPT = {**_SPECIAL, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4}
_LLAMA = {
    **_SPECIAL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_EXPERTS = {**_LLAMA, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_FAIRSEQ = {**_SPECIAL, "hidden_size": 32, "max_position_embeddings": 64, "num_hidden_layers": 3}
_DEEPSEEK = {
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
_STATE_SPACE = {**_SPECIAL, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 3}
_HEAD_8 = {"head_dim": 8}
_WINDOW = {"sliding_window": 4}


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        model_type: its name in transformers.
        config: the tiny configuration.
        blocks: path of the list of blocks.
        projection: path, within a block, of the projection to edit.
        layers: numbers of two blocks with this projection.
    """

    model_type: str
    config: dict[str, Any] = field(repr=False)
    blocks: str = "model.layers"
    projection: str = "mlp.down_proj"
    layers: tuple[int, int] = (0, 1)

    @property
    def rewrite_module(self) -> str:
        """The path of the projection; ``{}`` stands for the number of the block."""
        return f"{self.blocks}.{{}}.{self.projection}"

    def build(self) -> Any:
        """Return the tiny model, with the same weights each time."""
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(self)).float().eval()
        with torch.no_grad():
            # With the default initialisation, a model gives the same answer to every prompt.
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(4)
        return model


@functools.cache
def _config_class(model_type: str) -> Any:
    return CONFIG_MAPPING[model_type]


def _config(family: Family) -> Any:
    return _config_class(family.model_type)(**family.config)


_ALL = [
    Family("gpt2", _GPT, "transformer.h", "mlp.c_proj"),
    Family("openai-gpt", _GPT, "transformer.h", "mlp.c_proj"),
    Family("gpt_bigcode", _GPT, "transformer.h", "mlp.c_proj"),
    Family("gptj", {**_GPT, "rotary_dim": 8}, "transformer.h", "mlp.fc_out"),
    Family("codegen", {**_GPT, "rotary_dim": 8}, "transformer.h", "mlp.fc_out"),
    Family("ctrl", {**_GPT, "dff": 48}, "transformer.h", "ffn.2"),
    Family(
        "gpt_neo",
        {
            **_SPECIAL,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
            "window_size": 4,
        },
        "transformer.h",
        "mlp.c_proj",
    ),
    Family("gpt_neox", _LLAMA, "gpt_neox.layers", "mlp.dense_4h_to_h"),
    Family(
        "opt",
        {**_FAIRSEQ, "ffn_dim": 48, "num_attention_heads": 4, "word_embed_proj_dim": 32},
        "model.decoder.layers",
        "fc2",
    ),
    Family(
        "xglm",
        {
            **_SPECIAL,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 3,
            "attention_heads": 4,
            "max_position_embeddings": 64,
        },
        projection="fc2",
    ),
    Family("biogpt", {**_LLAMA, "num_key_value_heads": 4}, "biogpt.layers", "fc2"),
    Family("bloom", {**_SPECIAL, "hidden_size": 32, "n_layer": 3, "n_head": 4}, "transformer.h", "mlp.dense_4h_to_h"),
    Family(
        "mpt",
        {**_SPECIAL, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
        "transformer.blocks",
        "ffn.down_proj",
    ),
    Family(
        "falcon",
        {**_SPECIAL, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
        "transformer.h",
        "mlp.dense_4h_to_h",
    ),
    Family("llama", _LLAMA),
    Family("mistral", {**_LLAMA, **_WINDOW}),
    Family("mixtral", _EXPERTS, projection="self_attn.o_proj"),
    Family("qwen2", _LLAMA),
    Family(
        "qwen2_moe",
        {**_EXPERTS, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1},
        projection="mlp.shared_expert.down_proj",
    ),
    Family("qwen3", {**_LLAMA, **_HEAD_8}),
    Family("qwen3_moe", {**_EXPERTS, **_HEAD_8}, projection="self_attn.o_proj"),
    Family(
        "qwen3_next",
        {
            **_EXPERTS,
            **_HEAD_8,
            "num_hidden_layers": 4,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 24,
        },
        projection="mlp.shared_expert.down_proj",
    ),
    Family("gemma", {**_LLAMA, **_HEAD_8}),
    Family("gemma2", {**_LLAMA, **_HEAD_8, **_WINDOW}),
    Family("gemma3_text", {**_LLAMA, **_HEAD_8, **_WINDOW}),
    Family(
        "recurrent_gemma", {**_LLAMA, "lru_width": 32, "attention_window_size": 8}, projection="mlp_block.down_proj"
    ),
    Family("phi", _LLAMA, projection="mlp.fc2"),
    Family("phi3", _LLAMA),
    Family("phimoe", _EXPERTS, projection="self_attn.o_proj"),
    Family("olmo", _LLAMA),
    Family("olmo2", _LLAMA),
    Family("olmo3", _LLAMA),
    Family("olmoe", _EXPERTS, projection="self_attn.o_proj"),
    Family("stablelm", _LLAMA),
    Family("starcoder2", _LLAMA, projection="mlp.c_proj"),
    Family("cohere", _LLAMA),
    Family("cohere2", {**_LLAMA, **_WINDOW}),
    Family("granite", _LLAMA),
    Family("granitemoe", _EXPERTS, projection="self_attn.o_proj"),
    Family("smollm3", _LLAMA),
    Family("nemotron", _LLAMA),
    Family("persimmon", {**_LLAMA, "num_key_value_heads": 4}, projection="mlp.dense_4h_to_h"),
    Family("glm", {**_LLAMA, **_HEAD_8}),
    Family("glm4", {**_LLAMA, **_HEAD_8}),
    Family("gpt_oss", {**_EXPERTS, **_HEAD_8}, projection="self_attn.o_proj"),
    Family("deepseek_v2", {**_DEEPSEEK, "q_lora_rank": None}, projection="self_attn.o_proj"),
    Family("deepseek_v3", {**_DEEPSEEK, "q_lora_rank": 16}, projection="self_attn.o_proj"),
    Family(
        "lfm2",
        {**_LLAMA, "block_ff_dim": 48, "layer_types": ["conv", "full_attention", "conv"]},
        projection="feed_forward.w2",
    ),
    Family("mamba", _STATE_SPACE, "backbone.layers", "mixer.out_proj"),
    Family(
        "mamba2",
        {**_STATE_SPACE, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
        "backbone.layers",
        "mixer.out_proj",
    ),
    Family("falcon_mamba", _STATE_SPACE, "backbone.layers", "mixer.out_proj"),
    Family(
        "falcon_h1",
        {
            **_LLAMA,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_n_groups": 2,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
        projection="feed_forward.down_proj",
    ),
    Family(
        "bamba",
        {
            **_LLAMA,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_n_groups": 2,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "attn_layer_indices": [1],
        },
        projection="feed_forward.down_proj",
    ),
    Family(
        "jamba",
        {
            **_EXPERTS,
            "num_hidden_layers": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
        projection="feed_forward.down_proj",
        layers=(0, 2),
    ),
    Family(
        "rwkv",
        {
            **_SPECIAL,
            "context_length": 64,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "attention_hidden_size": 32,
            "intermediate_size": 64,
        },
        "rwkv.blocks",
        "feed_forward.value",
    ),
]

FAMILIES = {family.model_type: family for family in _ALL}
"""The families by their name in transformers."""
