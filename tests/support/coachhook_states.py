"""CoachHook's edits on a tiny model, and its state in a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easyedit_lifelong import CoachHookHyperParams
from tests.support import state_folders
from tests.support.coachhook_edits import editor_on, hparams_for, requests_for
from tests.support.tiny_models import build_model, build_tokenizer


def save_state(model: Any, folder: Path) -> None:
    """Write a model's CoachHook edits as a run does after each batch."""
    state_folders.save_state(model, folder, "CoachHook")


def unedited(family: str = "llama", **options: Any) -> tuple[Any, Any, CoachHookHyperParams]:
    """Return a model without edits, its tokenizer, and hyperparameters with few gradient steps."""
    return build_model(family), build_tokenizer(), hparams_for(family, v_num_grad_steps=4, **options)


def edited_and_saved(folder: Path, *batches: tuple[int, ...], **options: Any) -> tuple[Any, Any, CoachHookHyperParams]:
    """Edit a model with batches of the facts of these numbers, and save its state.

    Returns:
        The model, its tokenizer and the hyperparameters.
    """
    model, tokenizer, hparams = unedited(**options)
    editor = editor_on(model, tokenizer, hparams)
    for numbers in batches or ((0, 1), (2, 3)):
        editor.edit(requests_for(*numbers))
    save_state(model, folder)
    return model, tokenizer, hparams
