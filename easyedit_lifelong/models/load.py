"""Load a model and its tokenizer, by name, from a folder, or from a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models import smollm2
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.kinds import Kind, kind_of, kind_of_config
from easyedit_lifelong.models.wrappers import bare_model

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}
_CLASSES = {
    Kind.CAUSAL: "AutoModelForCausalLM",
    Kind.SEQ2SEQ: "AutoModelForSeq2SeqLM",
    Kind.CLASSIFIER: "AutoModelForSequenceClassification",
}


def load_model(
    name_or_path: str | Path,
    device: int | str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    model_parallel: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load a model and its tokenizer, ready to be edited.

    What its configuration says it is decides the class: a sequence classifier, an encoder-decoder model, else a
    causal language model.

    Args:
        name_or_path: a Hugging Face model name, a checkpoint folder, a ``.gguf`` file, or
            ``smollm2-135m`` (see :mod:`easyedit_lifelong.models.smollm2`). What is local needs no
            network.
        device: where to put it; see :func:`~easyedit_lifelong.models.devices.resolve_device`.
        dtype: ``float32`` (the default, in which the papers' numbers were made), ``bfloat16``,
            ``float16``, ``"auto"`` for the checkpoint's own, or a :class:`torch.dtype`.
        model_parallel: spread the model over all devices (``device_map="auto"``) instead.
        trust_remote_code: run code that comes with the checkpoint.

    Returns:
        The model in evaluation mode, and the tokenizer with a padding token, padding on the left for causal
        language models, else on the right.

    Raises:
        ModelError: there is no such model, or it is of none of these kinds.
        DeviceError: the device isn't there.
    """
    target = None if model_parallel else resolve_device(device)
    resolved_dtype = resolve_dtype(dtype)
    try:
        path = Path(name_or_path).expanduser()
    except RuntimeError as error:  # "~somebody"
        raise ModelError(f"{name_or_path}: there is no such user here. Write the path in full.") from error
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{path}: no such file. model_name must be a model's name, folder or GGUF file.")
        model, tokenizer = smollm2.read_gguf(path)
        if isinstance(resolved_dtype, torch.dtype):
            model = model.to(resolved_dtype)
        model.config._name_or_path = str(path)  # transformers notes its folder, from which nothing can be loaded
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
    if str(name_or_path) == smollm2.NAME:
        model.config._name_or_path = smollm2.NAME  # the cache's path says nothing to a reader of results
    prepare_tokenizer(tokenizer, model)
    if target is not None:
        model = model.to(target)
    return model.eval(), tokenizer


def load_named(hparams: Any) -> tuple[Any, Any]:
    """Load the model and tokenizer that hyperparameters name; those of EasyEdit's own classes know less.

    Raises:
        ModelError: there is no such model, or it can't be loaded.
        DeviceError: the device isn't there.
    """
    return load_model(
        hparams.model_name,
        getattr(hparams, "device", None),
        getattr(hparams, "dtype", None),
        model_parallel=bool(getattr(hparams, "model_parallel", False)),
        trust_remote_code=bool(getattr(hparams, "trust_remote_code", False)),
    )


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | str:
    """Turn a hyperparameter file's ``dtype`` into torch's, or ``"auto"``.

    Raises:
        ModelError: the name isn't known.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype or torch.float32
    if dtype == "auto":
        return "auto"
    if dtype not in _DTYPES:
        raise ModelError(f"dtype: {dtype!r} isn't known. Use one of: auto, {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def prepare_tokenizer(tokenizer: Any, model: Any = None) -> None:
    """Give a tokenizer what batching needs: a padding token, and padding on the model's side.

    The end-of-text token pads where the tokenizer brings no padding token of its own, as is usual
    for GPT-2, GPT-J, Llama and Mistral. No token is added, so no embedding has to grow.

    Raises:
        ModelError: the tokenizer has nothing to pad with.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token
        elif tokenizer.unk_token_id is not None:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            raise ModelError(f"{type(tokenizer).__name__} has no token to pad with. Set tokenizer.pad_token.")
    # An encoder's positions count from its first column, padding or not.
    tokenizer.padding_side = "left" if model is None or kind_of(model) is Kind.CAUSAL else "right"
    generation = getattr(model, "generation_config", None)
    if generation is not None and generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id


def context_length(model: Any) -> int | None:
    """Return how many tokens the model can attend to, or None where its config doesn't say."""
    config = getattr(model, "config", None)
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def model_label(model: Any) -> str:
    """Name a model for results: where it was loaded from, else its class."""
    model = bare_model(model)
    return getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__


def _source(name_or_path: str | Path) -> str:
    text = str(name_or_path)
    if text == smollm2.NAME:
        return str(smollm2.checkpoint())
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path}: this folder holds no model (it has no config.json).")
        return str(path)
    # "org/name" may be a hub name; anything else with a separator can only have meant a folder.
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise ModelError(f"{text}: no such folder. model_name must be a model's name, folder or GGUF file.")
    return text


def _check_kind(config: Any, asked_for: str | Path) -> None:
    """Refuse what would load all the same, with another head of random weights."""
    made_as = getattr(config, "architectures", None) or ()
    others = [name for name in made_as if name.endswith("Classification") and kind_of_config(config) is Kind.CAUSAL]
    if others:
        raise ModelError(
            f"{asked_for}: is a {others[0]}. Causal language models, encoder-decoders and sequence classifiers can be "
            "edited."
        )


def _from_pretrained(auto_class: str, source: str, asked_for: str | Path, **options: Any) -> Any:
    import transformers

    try:
        return getattr(transformers, auto_class).from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        kinds = {auto: kind.value for kind, auto in _CLASSES.items()}
        what = "tokenizer" if auto_class == "AutoTokenizer" else kinds.get(auto_class, "model")
        raise ModelError(
            f"{asked_for}: can't load a {what} from there: {first_line} "
            f"(model_name is a Hugging Face name, a checkpoint folder, a .gguf file, or {smollm2.NAME!r})"
        ) from error
