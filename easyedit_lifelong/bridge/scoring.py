"""Tell an edited model where the prompt ends while EasyEdit scores it.

EasyEdit scores by teacher forcing: it feeds prompt and target in one piece and compares what the
model says at each target token. A method that acts on the last *prompt* token can't see from that
where the prompt ends. EasyEdit's scoring function is wrapped to say so to models that want to know.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

_FUNCTION = "test_prediction_acc"
_MARK = "_easyedit_lifelong"


def wrap(package: str) -> None:
    """Wrap EasyEdit's scoring function wherever a module of EasyEdit's holds it.

    Doing it again does nothing.

    Args:
        package: EasyEdit's package.
    """
    original = getattr(importlib.import_module(f"{package}.evaluate.evaluate_utils"), _FUNCTION)
    if hasattr(original, _MARK):
        return
    wrapped = _informed(original)
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, wrapped)


def _informed(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)
    # Main makes room for the longest input; the release cuts at max_length.
    truncates = "vanilla_generation" not in signature.parameters

    @functools.wraps(original)
    def scored(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        # With vanilla_generation, generate() itself knows the prompt.
        if given.get("vanilla_generation") or not _wants_to_know(given["model"]):
            return original(*args, **kwargs)
        from easyedit_lifelong.models.positions import prompt_lengths

        with prompt_lengths(given["model"], _count(given, truncates)):
            return original(*args, **kwargs)

    setattr(scored, _MARK, True)
    return scored


def _wants_to_know(model: Any) -> bool:
    from torch import nn

    from easyedit_lifelong.models.positions import PositionTracker

    return isinstance(model, nn.Module) and PositionTracker.of(model) is not None


def _count(given: dict[str, Any], truncates: bool) -> list[int]:
    """Count each prompt's tokens, special ones included, as EasyEdit does.

    Args:
        given: the arguments of the scoring function, by name.
        truncates: whether it cuts its input at ``hparams.max_length``.
    """
    tok, hparams, prompts = given["tok"], given["hparams"], given["prompts"]
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not given.get("locality") and getattr(hparams, "use_chat_template", False):
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        prompts = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    lengths = [len(ids) for ids in tok(prompts)["input_ids"]]
    return [min(length, hparams.max_length) for length in lengths] if truncates else lengths
