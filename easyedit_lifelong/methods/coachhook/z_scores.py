"""What an edited model's hook layers decide by, for those who want to look."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.shared.editors import internal_pass
from easyedit_lifelong.models.modes import evaluating
from easyedit_lifelong.models.runner import Runner


@torch.no_grad()
def z_scores(model: Any, tokenizer: Any, prompts: Sequence[str]) -> dict[str, list[Tensor]]:
    """Return the z-scores that an edited model's hook layers decide by (equation 6), weighed if they weigh them.

    Args:
        model: a model that carries CoachHook edits.
        tokenizer: its tokenizer.
        prompts: what to look at; each is taken for a whole prompt.

    Returns:
        By path of the projection, a tensor of shape ``(tokens,)`` for each prompt.

    Raises:
        EditError: the model carries no CoachHook edits, or none with hook layers (``wohk``).
    """
    editor = coachhook_editor(model)
    if editor.hparams.wohk:
        raise EditError("these CoachHook edits are in the weights (wohk): there are no hook layers, and no z-scores")
    runner = Runner(model, tokenizer)
    rows = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    found: dict[str, list[Tensor]] = {path: [] for path in editor.hooks}
    with evaluating(model), internal_pass(model), ExitStack() as stack:
        for path, hook in editor.hooks.items():
            stack.enter_context(hook.recording_scores(found[path].append))
        for row in rows:
            ids = torch.tensor([row], device=runner.device)
            runner.call(ids, torch.ones_like(ids), [len(row)])
    return {path: [scores.squeeze(0).cpu() for scores in per_prompt] for path, per_prompt in found.items()}
