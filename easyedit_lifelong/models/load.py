"""Load a model and its tokenizer by name, from a folder, or from a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.errors import DeviceError, ModelError
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.gguf import read_gguf
from easyedit_lifelong.models.model_kinds import ModelKind, architectures_of, kind_of, kind_of_config
from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS
from easyedit_lifelong.models.wrappers import unwrap_model
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plurals import counted

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}
_CLASSES = {
    ModelKind.CAUSAL: "AutoModelForCausalLM",
    ModelKind.SEQ2SEQ: "AutoModelForSeq2SeqLM",
    ModelKind.CLASSIFIER: "AutoModelForSequenceClassification",
}

_MAX_SHOWN = 5
"""Names of missing weights that an error lists."""


def load_model(
    name_or_path: str | Path,
    device: int | str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    model_parallel: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load a model and its tokenizer, ready to be edited.

    The checkpoint's configuration determines the class: a sequence classifier, an encoder-decoder model, or otherwise a
    causal language model.

    Args:
        name_or_path: a Hugging Face model name, a checkpoint folder, a ``.gguf`` file, or
            ``smollm2-135m`` or ``gemma3-270m`` (see :mod:`easyedit_lifelong.models.packaged_models`). Local models need
            no network.
        device: where to put the model; see :func:`~easyedit_lifelong.models.devices.resolve_device`.
        dtype: ``float32`` (the default, which the papers used), ``bfloat16``, ``float16``, ``"auto"`` for the
            checkpoint's dtype, or a :class:`torch.dtype`.
        model_parallel: spread the model over all devices (``device_map="auto"``); ``device`` is then ignored.
        trust_remote_code: run code that is shipped with the checkpoint.

    Returns:
        The model in evaluation mode, and the tokenizer. The tokenizer has a padding token, and pads on the left for
        causal language models, on the right for others.

    Raises:
        ModelError: the model doesn't exist, can't be loaded, or is of another kind.
        DeviceError: this machine has no such device.
    """
    target = None if model_parallel else resolve_device(device)
    if target is not None and target.type == "meta":
        raise DeviceError("device: 'meta' holds no weights, so a model on it can't be used")
    resolved_dtype = resolve_dtype(dtype)
    path = expanded_path(name_or_path, ModelError)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{path}: no such file. model_name must be a model's name, folder or GGUF file.")
        model, tokenizer = read_gguf(path)
        if isinstance(resolved_dtype, torch.dtype):
            model = model.to(resolved_dtype)
        model.config._name_or_path = str(path)  # transformers stores the folder, which from_pretrained can't load
    else:
        source = _source(name_or_path)
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        config = _from_pretrained("AutoConfig", source, name_or_path, **options)
        _check_kind(config, name_or_path)
        model = _from_pretrained(
            _CLASSES[kind_of_config(config)],
            source,
            name_or_path,
            dtype=resolved_dtype,
            device_map="auto" if model_parallel else None,
            **options,
        )
        tokenizer = _from_pretrained("AutoTokenizer", source, name_or_path, **options)
    if str(name_or_path) in PACKAGED_MODELS:
        model.config._name_or_path = str(name_or_path)  # results show this name, not the path in the cache
    try:
        prepare_tokenizer(tokenizer, model)
    except ModelError as error:
        raise ModelError(f"{name_or_path}: {error}") from error
    if target is not None:
        model = model.to(target)
    return model.eval(), tokenizer


def load_from_hparams(hparams: Any) -> tuple[Any, Any]:
    """Load the model and tokenizer that hyperparameters name.

    Args:
        hparams: hyperparameters with ``model_name``; ``device``, ``dtype``, ``model_parallel`` and
            ``trust_remote_code`` are optional, since EasyEdit's own classes lack some of them.

    Raises:
        ModelError: the model doesn't exist or can't be loaded.
        DeviceError: this machine has no such device.
    """
    return load_model(
        hparams.model_name,
        getattr(hparams, "device", None),
        getattr(hparams, "dtype", None),
        model_parallel=bool(getattr(hparams, "model_parallel", False)),
        trust_remote_code=bool(getattr(hparams, "trust_remote_code", False)),
    )


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | str:
    """Return the torch dtype for the ``dtype`` of a hyperparameter file, or ``"auto"``.

    Raises:
        ModelError: the name is unknown.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype or torch.float32
    if dtype == "auto":
        return "auto"
    if dtype not in _DTYPES:
        raise ModelError(f"dtype: {dtype!r} isn't known. Use one of: auto, {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def prepare_tokenizer(tokenizer: Any, model: Any = None) -> None:
    """Set what a tokenizer needs to pad batches: a padding token and the padding side that suits the model.

    If the tokenizer has no padding token, it pads with its end-of-text token, as usual for GPT-2, GPT-J, Llama and
    Mistral, or with its unknown token. The vocabulary does not grow, so the embeddings keep their size.

    Args:
        tokenizer: the tokenizer; changed in place.
        model: the model; None stands for a causal language model.

    Raises:
        ModelError: the tokenizer has none of these tokens.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token
        elif tokenizer.unk_token_id is not None:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            raise ModelError(f"{type(tokenizer).__name__} has no token to pad with. Set tokenizer.pad_token.")
    # An encoder counts positions from the first column, even if that is padding.
    tokenizer.padding_side = "left" if model is None or kind_of(model) is ModelKind.CAUSAL else "right"
    generation = getattr(model, "generation_config", None)
    if generation is not None and generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id


def context_length(model: Any) -> int | None:
    """Return how many tokens the model can attend to, or None if its configuration doesn't say."""
    config = getattr(model, "config", None)
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def model_label(model: Any) -> str:
    """Return the name of a model for results and file names: the name or path that it was loaded from, or its class."""
    model = unwrap_model(model)
    return getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__


def _source(name_or_path: str | Path) -> str:
    """Return the checkpoint folder or Hub name that ``from_pretrained`` is to load."""
    text = str(name_or_path)
    if text in PACKAGED_MODELS:
        return str(PACKAGED_MODELS[text].checkpoint())
    path = expanded_path(text, ModelError)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path}: this folder holds no model (it has no config.json). Give a checkpoint folder.")
        return str(path)
    # "org/name" may be a Hub name; any other text with a separator can only be a path.
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise ModelError(f"{text}: no such folder. model_name must be a model's name, folder or GGUF file.")
    return text


def _check_kind(config: Any, name_or_path: str | Path) -> None:
    """Check that a model isn't a classifier of tokens, images and so on.

    transformers would load such a model as a language model, with a randomly initialised head.

    Raises:
        ModelError: it is one.
    """
    if kind_of_config(config) is not ModelKind.CAUSAL:
        return
    for architecture in architectures_of(config):
        if architecture.endswith("Classification"):
            raise ModelError(
                f"{name_or_path}: is a {architecture}. Only causal language models, encoder-decoder models and "
                "sequence classifiers can be edited."
            )


def _from_pretrained(auto_class: str, source: str, name_or_path: str | Path, **options: Any) -> Any:
    """Call ``from_pretrained`` of one of transformers' auto classes; turn its errors into :class:`ModelError`.

    Raises:
        ModelError: it can't be loaded, or is a model of which the checkpoint lacks weights.
    """
    import transformers

    loads_weights = auto_class in _CLASSES.values()
    try:
        loaded = getattr(transformers, auto_class).from_pretrained(
            source, **options, **({"output_loading_info": True} if loads_weights else {})
        )
    except Exception as error:  # what transformers raises for a damaged config.json has no common class
        reason = _first_sentence(str(error)) or type(error).__name__
        kinds = {auto: kind.value for kind, auto in _CLASSES.items()}
        what = "tokenizer" if auto_class == "AutoTokenizer" else kinds.get(auto_class, "model")
        raise ModelError(
            f"{name_or_path}: can't load a {what} from there: {reason} "
            "(model_name is a Hugging Face name, a checkpoint folder, a .gguf file, or one of "
            f"{', '.join(PACKAGED_MODELS)})"
        ) from error
    if not loads_weights:
        return loaded
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {counted(len(missing) - _MAX_SHOWN, 'other')}" if len(missing) > _MAX_SHOWN else ""
        raise ModelError(
            f"{name_or_path}: the checkpoint lacks weights of this model: {', '.join(missing[:_MAX_SHOWN])}{more}. "
            "They would be random. Its files are incomplete, or its config.json is that of another model."
        )
    return model


def _first_sentence(message: str) -> str:
    """Return the first line of a message, and the next one if the first ends in a colon."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
