"""Every method's edits of a tiny model, and the logits by which edited models are compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from tests.support import subject_edits
from tests.support.coachhook_edits import (
    FACTS,
    OTHERS,
    editor_on,
    hparams_for,
    requests_for,
)
from tests.support.tiny_models import FAMILIES, build_tokenizer

Edit = Callable[[Any, str], Any]


def grace(model: Any, family: str) -> Any:
    """Make edits with GRACE that add keys, split radii and supersede a key."""
    requests = [
        {"case_id": n, "prompt": prompt, "target_new": target}
        for n, (prompt, target) in enumerate([*((p, t) for p, t, _ in FACTS), (FACTS[0][0], "London")])
    ]
    hparams = GraceHyperParams(model_name="tiny", inner_params=[FAMILIES[family][1]], n_iter=8, eps=3.0)
    return apply_grace_to_model(model, build_tokenizer(), requests, hparams)


def coachhook(model: Any, family: str, **options: Any) -> Any:
    """Make two batches of edits with CoachHook, with an alpha_z so low that hooks act."""
    options = {"alpha_z": 1.0, "v_num_grad_steps": 4, **options}
    editor = editor_on(model, build_tokenizer(), hparams_for(family, **options))
    return editor.edit(requests_for())


def wohk(model: Any, family: str) -> Any:
    return coachhook(model, family, wohk=True)


def weighed(model: Any, family: str) -> Any:
    return coachhook(model, family, scope_score="weighed", z_tokens="others")


def grace_and_coachhook(model: Any, family: str) -> Any:
    grace(model, family)
    return coachhook(model, family)


METHODS: dict[str, Edit] = {
    "GRACE": grace,
    "CoachHook": coachhook,
    "CoachHook-wohk": wohk,
    "CoachHook-weighed": weighed,
    "both": grace_and_coachhook,
    **{mode: functools.partial(subject_edits.edit, mode=mode) for mode in subject_edits.MODES},
}


def logits_of(model: Any) -> list[torch.Tensor]:
    tokenizer = build_tokenizer()
    prompts = [*(prompt for prompt, _, _ in FACTS), *OTHERS]
    with torch.no_grad():
        return [model(**tokenizer(prompt, return_tensors="pt")).logits for prompt in prompts]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
