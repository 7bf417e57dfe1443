"""What a model answers with: a continuation of its prompt, a text of its own, a label, or just numbers."""

from __future__ import annotations

from enum import Enum
from typing import Any

from easyedit_lifelong.models.wrappers import bare_model


class Kind(Enum):
    """What a model answers with."""

    CAUSAL = "causal language model"
    SEQ2SEQ = "sequence-to-sequence model"
    CLASSIFIER = "sequence classifier"
    MODULE = "module"


def kind_of(model: Any) -> Kind:
    """Return what kind a model is.

    Encoder-decoder models say so in their configuration. Classifiers are told by their class's name, which is
    transformers' convention and peft's; their configuration doesn't tell them from the encoder without a head.
    Anything without input embeddings is a plain module.
    """
    model = bare_model(model)
    if not hasattr(model, "get_input_embeddings"):
        return Kind.MODULE
    if type(model).__name__.endswith("ForSequenceClassification"):
        return Kind.CLASSIFIER
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return Kind.SEQ2SEQ
    return Kind.CAUSAL


def kind_of_config(config: Any) -> Kind:
    """Return what kind of model a checkpoint's configuration belongs to."""
    classes = getattr(config, "architectures", None) or []
    if any(name.endswith("ForSequenceClassification") for name in classes):
        return Kind.CLASSIFIER
    return Kind.SEQ2SEQ if getattr(config, "is_encoder_decoder", False) else Kind.CAUSAL
