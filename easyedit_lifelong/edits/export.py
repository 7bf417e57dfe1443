"""Export an edited model as an ordinary checkpoint, which transformers loads without this package."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from easyedit_lifelong.atomic import atomic_folder
from easyedit_lifelong.edits.card import CARD, exported_card
from easyedit_lifelong.edits.edits_folder import check_empty
from easyedit_lifelong.errors import EditError, ModelError, RunError
from easyedit_lifelong.methods.base import PlainWeights
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.plugins import get_plugins

LOG = logging.getLogger(__name__)

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Export:
    """A checkpoint that was exported.

    Attributes:
        folder: its folder.
        edits: the number of edits in its weights, by method.
        lost: what the edited model can do and the checkpoint can't, in sentences; empty if nothing is lost.
    """

    folder: Path
    edits: dict[str, int]
    lost: tuple[str, ...]


def export_model(edited_model: Any, tokenizer: Any, out: str | Path) -> Export:
    """Write an edited model as an ordinary Hugging Face checkpoint: ``from_pretrained`` loads it without this package.

    Each method reports what ordinary weights can't hold of its edits (docs/edits.md). The model is not changed.

    Args:
        edited_model: a model that carries edits.
        tokenizer: its tokenizer, which is saved with the checkpoint.
        out: the folder, which must be empty or not exist. If writing fails, nothing is left in it.

    Returns:
        The folder, and what was lost. The folder's ``README.md`` lists the losses, too.

    Raises:
        EditError: the model carries no edits, or edits that ordinary weights can't hold.
        ModelError: the model's weights are quantised, or not in memory.
        RunError: the folder is not empty, or can't be written.
    """
    folder = check_empty(Path(out))
    counts, by_method = _plain_weights(edited_model)
    lost = tuple(dict.fromkeys(plain.lost for plain in by_method if plain.lost))
    changed = {name: weight for plain in by_method for name, weight in plain.weights.items()}
    skeleton = _skeleton_of(edited_model)
    state_dict = _exported_state_dict(edited_model, skeleton, changed)
    card = exported_card(model_label(edited_model), counts, lost)
    try:
        with atomic_folder(folder) as temporary:
            skeleton.save_pretrained(temporary, state_dict=state_dict)
            tokenizer.save_pretrained(temporary)
            (temporary / CARD).write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{folder}: the model can't be written: {reason}. Nothing of it was left there.") from error
    for loss in lost:
        LOG.info("%s: lost: %s", folder, loss)
    return Export(folder, counts, lost)


def _plain_weights(model: Any) -> tuple[dict[str, int], list[PlainWeights]]:
    """Return the number of edits that a model carries, by method; and each method's edits as ordinary weights."""
    counts: dict[str, int] = {}
    by_method: list[PlainWeights] = []
    for method in get_plugins().methods:
        parts = method.edits.parts(model) if method.edits is not None else []
        if not parts:
            continue
        if method.plain_weights is None:
            missing = f"method {method.name!r} can't put its edits into plain weights"
            raise EditError(method.reasons.get("plain_weights", missing))
        by_method.append(method.plain_weights(model))
        counts[method.name] = sum(len(part.edits) for part in parts)
    if not by_method:
        raise EditError("the model carries no edits that could be exported")
    return counts, by_method


def _skeleton_of(model: Any) -> Any:
    """Return a model of the same class and configuration on the meta device: without edits, and without weights.

    Raises:
        ModelError: the model's weights are quantised.
    """
    quantised = next((name for name, weight in model.named_parameters() if weight.dtype not in _FLOATS), None)
    if quantised is not None:
        raise ModelError(
            f"{model_label(model)}: {quantised} is quantised ({model.get_parameter(quantised).dtype}); a quantised "
            "model can't be exported. Load it in float32, bfloat16 or float16."
        )
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):  # weights from a GGUF file were dequantised when they were loaded
        del config.quantization_config
    with torch.device("meta"):
        skeleton = type(model)(config).to(model.dtype)
    skeleton.generation_config = copy.deepcopy(model.generation_config)
    return skeleton


def _exported_state_dict(model: Any, skeleton: Any, changed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the checkpoint: the skeleton's names, the model's weights, and the changed ones.

    Raises:
        EditError: a changed weight is shared with another parameter.
        ModelError: a weight is not in memory.
    """
    weights, names = model.state_dict(), list(skeleton.state_dict())
    _check_not_tied(model, changed)
    missing = [name for name in (*names, *changed) if name not in weights or weights[name].is_meta]
    if missing:
        raise ModelError(
            f"{model_label(model)}: {missing[0]} isn't in memory (offloaded?); the model can't be exported"
        )
    return {name: changed.get(name, weights[name]) for name in names}


def _check_not_tied(model: Any, changed: dict[str, Tensor]) -> None:
    """Raise an EditError if a changed weight is also another parameter, as a tied output head is."""
    for name in changed:
        weight = model.get_parameter(name)
        parameters = model.named_parameters(remove_duplicate=False)
        other = next((other for other, parameter in parameters if parameter is weight and other != name), None)
        if other is not None:
            raise EditError(f"{name} is the same weight as {other}; an update in it would change both")
