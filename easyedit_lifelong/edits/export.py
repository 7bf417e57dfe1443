"""Edits in plain weights: a checkpoint that transformers loads without this package."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from easyedit_lifelong.atomic import appearing
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
    """A checkpoint with edits in its weights.

    Attributes:
        folder: where it is.
        edits: how many edits it holds, by method.
        lost: what the edited model did that the checkpoint can't do; nothing if they are the same.
    """

    folder: Path
    edits: dict[str, int]
    lost: tuple[str, ...]


def export_model(edited_model: Any, tokenizer: Any, out: str | Path) -> Export:
    """Write an edited model as a plain Hugging Face checkpoint: ``from_pretrained`` loads it without this package.

    A method says itself what ordinary weights can't hold of its edits (docs/edits.md). The model stays as it is.

    Args:
        edited_model: a model that carries edits.
        tokenizer: its tokenizer, which goes into the folder.
        out: a folder that isn't there yet, or is empty. It appears whole or not at all.

    Returns:
        Where it is, and what was lost; the folder's ``README.md`` says it, too.

    Raises:
        EditError: the model carries no edits, or such as weights can't hold.
        ModelError: its weights are quantised.
        RunError: the folder is in use, or can't be written.
    """
    folder = check_empty(Path(out))
    counts, plain = _plain_weights(edited_model)
    lost = tuple(dict.fromkeys(one.lost for one in plain if one.lost))
    changed = {name: weight for one in plain for name, weight in one.weights.items()}
    shell = _shell_of(edited_model)
    state = _state_of(edited_model, shell, changed)
    card = exported_card(model_label(edited_model), counts, lost)
    try:
        with appearing(folder) as work:
            shell.save_pretrained(work, state_dict=state)
            tokenizer.save_pretrained(work)
            (work / CARD).write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{folder}: the model can't be written: {reason}. Nothing of it was left there.") from error
    for one in lost:
        LOG.info("%s: lost: %s", folder, one)
    return Export(folder, counts, lost)


def _plain_weights(model: Any) -> tuple[dict[str, int], list[PlainWeights]]:
    """Return how many edits a model carries, by method, and each method's in plain weights."""
    counts: dict[str, int] = {}
    plain: list[PlainWeights] = []
    for method in get_plugins().methods:
        parts = method.edits.parts(model) if method.edits is not None else []
        if not parts:
            continue
        if method.plain_weights is None:
            missing = f"method {method.name!r} can't put its edits into plain weights"
            raise EditError(method.reasons.get("plain_weights", missing))
        plain.append(method.plain_weights(model))
        counts[method.name] = sum(len(part.edits) for part in parts)
    if not plain:
        raise EditError("the model carries no edits that could be exported")
    return counts, plain


def _shell_of(model: Any) -> Any:
    """Return a model of the same kind without edits, and without weights: it knows which files belong to it."""
    odd = next((name for name, weight in model.named_parameters() if weight.dtype not in _FLOATS), None)
    if odd is not None:
        raise ModelError(
            f"{model_label(model)}: {odd} is quantised ({model.get_parameter(odd).dtype}); only a model with whole "
            "weights can be exported. Load it in float32, bfloat16 or float16."
        )
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):  # weights that came from a GGUF file are whole by now
        del config.quantization_config
    with torch.device("meta"):
        shell = type(model)(config).to(model.dtype)
    shell.generation_config = copy.deepcopy(model.generation_config)
    return shell


def _state_of(model: Any, shell: Any, changed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that the shell would hold, without what the edits have put beside them."""
    held, names = model.state_dict(), list(shell.state_dict())
    _check_shared(model, changed)
    missing = [name for name in (*names, *changed) if name not in held or held[name].is_meta]
    if missing:
        raise ModelError(
            f"{model_label(model)}: {missing[0]} isn't in memory (offloaded?); the model can't be exported"
        )
    return {name: changed.get(name, held[name]) for name in names}


def _check_shared(model: Any, changed: dict[str, Tensor]) -> None:
    """Check that no changed weight does another work, too, as a tied head's does."""
    for name in changed:
        weight = model.get_parameter(name)
        other = next((n for n, p in model.named_parameters(remove_duplicate=False) if p is weight and n != name), None)
        if other is not None:
            raise EditError(f"{name} is the same weight as {other}; an update in it would change both")
