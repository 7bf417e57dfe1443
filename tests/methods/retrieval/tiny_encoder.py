"""A tiny sentence encoder with random weights, as a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from tests.support.tiny_models import VOCABULARY, build_tokenizer, with_beginning_token


def write_encoder(folder: Path) -> str:
    """Write the encoder and its tokenizer; return the folder's path."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    # Encoders have a token at the beginning, so that no text is empty.
    with_beginning_token(build_tokenizer()).save_pretrained(folder)
    return str(folder)
