"""The fine-tuning methods and their ports."""

from __future__ import annotations

from easyedit_lifelong.methods.finetune.editor import EDITORS, apply_finetune_to_model
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method
from easyedit_lifelong.methods.weight_updates.check import check_encodable, check_projections

SHOWN_SETTINGS = (
    *("order", "num_steps", "lr", "stop_when_correct", "stop_loss"),
    *("norm_constraint", "ewc_lambda", "retrain_frequency", "with_history"),
)
"""The hyperparameters that ``inspect`` shows."""


METHODS = tuple(
    batch_method(
        editor_class,
        apply_finetune_to_model,
        editor_class.hparams_class.ALG_NAME,
        SHOWN_SETTINGS,
        check=lambda model, tokenizer, hparams: check_projections(model, hparams),
        check_requests=check_encodable,
    )
    for editor_class in EDITORS
)
"""``FT-native``, ``FT-L``, ``FT-EWC``, ``FT-Retrain`` and ``LocFT-BF``."""
