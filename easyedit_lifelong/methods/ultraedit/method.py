"""UltraEdit and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.ultraedit.editor import UltraEditEditor, apply_ultraedit_to_model
from easyedit_lifelong.methods.ultraedit.search import SEARCH_SPACE
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method
from easyedit_lifelong.methods.weight_updates.check import check_block_projections, check_encodable

METHODS = (
    batch_method(
        UltraEditEditor,
        apply_ultraedit_to_model,
        "UltraEdit",
        ("lr",),
        check=lambda model, tokenizer, hparams: check_block_projections(model, hparams, "inner_params"),
        check_requests=check_encodable,
        search_space=SEARCH_SPACE,
    ),
)
