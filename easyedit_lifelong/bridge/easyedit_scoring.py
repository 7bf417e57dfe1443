"""Have EasyEdit score edited models by their output where the answer is due.

EasyEdit scores by teacher forcing: it feeds prompt and target in one piece and compares the model's
output at each target token. A method that acts on the last *prompt* token can't see from that
where the prompt ends, so the scoring function is wrapped to tell models that need to know.

Main scores methods called GRACE by generation instead, and compares with the tokens of the bare
target. What follows a prompt is the target behind a space, for most tokenizers other tokens, and a
perfect edit scores 0. For our methods the target is handed over as it follows the prompt.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from easyedit_lifelong.bridge.wrapping import easyedit_modules, wrap
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.prompt_positions import PositionTracker, prompt_lengths
from easyedit_lifelong.plugins import get_plugins


def wrap_scoring(package: str) -> None:
    """Wrap EasyEdit's scoring functions wherever a module of EasyEdit's holds them.

    Doing it again does nothing.

    Args:
        package: EasyEdit's package.
    """
    utils = importlib.import_module(f"{package}.evaluate.evaluate_utils")
    for name in ("test_prediction_acc", "F1"):  # the latter in main only
        original = wrap(utils, name, _score)
        holders = [
            (module, key)
            for module in easyedit_modules()
            for key, value in vars(module).items()
            if original is not None and value is original
        ]
        for module, key in holders:
            setattr(module, key, getattr(utils, name))


def _score(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a scoring function, with what it lacks."""
    signature = inspect.signature(original)
    call = signature.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    model = given["model"]
    if given.get("vanilla_generation"):
        if get_plugins().method_for(given["hparams"]) is not None:
            given["targets"] = _as_they_follow(given["tok"], given["prompts"], given["targets"])
        return original(*call.args, **call.kwargs)
    if not isinstance(model, nn.Module) or PositionTracker.of(model) is None:
        return original(*args, **kwargs)
    # Main makes room for the longest input; the release cuts at max_length.
    truncates = "vanilla_generation" not in signature.parameters
    with prompt_lengths(model, _count(given, truncates)):
        return original(*args, **kwargs)


def _as_they_follow(tok: Any, prompts: Any, targets: Any) -> Any:
    """Return each target, behind a space if its tokens after the prompt are those of it with one."""
    if isinstance(prompts, str):
        return _as_they_follow(tok, [prompts], [targets])[0]
    followed = []
    for prompt, target in zip(prompts, targets, strict=False):  # not strict: EasyEdit isn't either
        spaced = f" {target}"
        is_word = isinstance(target, str) and target and not target[0].isspace()
        fits = is_word and tok.encode(spaced, add_special_tokens=False) == encode_pair(tok, prompt, target).target
        followed.append(spaced if fits else target)
    return followed


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
