"""The kinds of models: causal language model, encoder-decoder, sequence classifier, or any other module."""

from __future__ import annotations

from enum import Enum
from typing import Any

from easyedit_lifelong.models.wrappers import unwrap_model


class ModelKind(Enum):
    """A kind of model: it determines how prompts and answers are encoded, scored and generated."""

    CAUSAL = "causal language model"
    SEQ2SEQ = "sequence-to-sequence model"
    CLASSIFIER = "sequence classifier"
    MODULE = "module"


def kind_of(model: Any) -> ModelKind:
    """Return the kind of a model.

    A configuration says whether a model is an encoder-decoder. Classifiers are recognised by the name of their class,
    as transformers and peft do, because their configuration equals that of the encoder without a head. A model without
    input embeddings is a plain module.
    """
    model = unwrap_model(model)
    if not hasattr(model, "get_input_embeddings"):
        return ModelKind.MODULE
    if type(model).__name__.endswith("ForSequenceClassification"):
        return ModelKind.CLASSIFIER
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return ModelKind.SEQ2SEQ
    return ModelKind.CAUSAL


def architectures_of(config: Any) -> list[str]:
    """Return the names of the classes that a checkpoint's configuration lists; a damaged list has none."""
    names = getattr(config, "architectures", None)
    return [name for name in names if isinstance(name, str)] if isinstance(names, (list, tuple)) else []


def kind_of_config(config: Any) -> ModelKind:
    """Return the kind of model that a checkpoint's configuration describes."""
    if any(name.endswith("ForSequenceClassification") for name in architectures_of(config)):
        return ModelKind.CLASSIFIER
    return ModelKind.SEQ2SEQ if getattr(config, "is_encoder_decoder", False) else ModelKind.CAUSAL
