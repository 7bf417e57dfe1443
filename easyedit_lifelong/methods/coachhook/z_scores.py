"""Return the scores of prompts in the hook layers of an edited model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.shared.editors import internal_pass
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.runner import Runner


@torch.no_grad()
def z_scores(model: Any, tokenizer: Any, prompts: Sequence[str]) -> dict[str, list[Tensor]]:
    """Return the scores that hook layers compare with α: z-scores (equation 6), weighed if ``scope_score`` says so.

    Args:
        model: a model with CoachHook edits.
        tokenizer: its tokenizer.
        prompts: the prompts. Each is run as a full prompt, without an answer.

    Returns:
        The scores of each prompt in each hook layer, shape ``(tokens,)``, by path of the projection.

    Raises:
        EditError: the model has no CoachHook edits, or has them in the weights (``wohk``).
    """
    editor = coachhook_editor(model)
    if editor.hparams.wohk:
        raise EditError("there are no z-scores: with wohk, CoachHook's edits are in the weights, without hook layers")
    runner = Runner(model, tokenizer)
    rows = [encode_text(tokenizer, prompt) for prompt in prompts]
    scores: dict[str, list[Tensor]] = {path: [] for path in editor.hooks}
    with evaluating(model), internal_pass(model), ExitStack() as stack:
        for path, hook in editor.hooks.items():
            stack.enter_context(hook.recording_scores(scores[path].append))
        for row in rows:
            ids = torch.tensor([row], device=runner.device)
            runner.call(ids, torch.ones_like(ids), [len(row)])
    return {path: [row.squeeze(0).cpu() for row in per_prompt] for path, per_prompt in scores.items()}
