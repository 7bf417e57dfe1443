"""Have EasyEdit score edited models by what they say where the answer is due.

EasyEdit scores by teacher forcing: it feeds prompt and target in one piece and compares what the
model says at each target token. A method that acts on the last *prompt* token can't see from that
where the prompt ends, so the scoring function is wrapped to say so to models that want to know.

Main scores methods called GRACE by generation instead, and compares with the tokens of the bare
target. What follows a prompt is the target behind a space, for most tokenizers other tokens, and a
perfect edit scores 0. For our methods the target is handed over as it follows the prompt.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

_FUNCTIONS = ("test_prediction_acc", "F1")  # the latter in main only
_MARK = "_easyedit_lifelong"


def wrap(package: str) -> None:
    """Wrap EasyEdit's scoring functions wherever a module of EasyEdit's holds them.

    Doing it again does nothing.

    Args:
        package: EasyEdit's package.
    """
    module = importlib.import_module(f"{package}.evaluate.evaluate_utils")
    for function in _FUNCTIONS:
        original = getattr(module, function, None)
        if original is not None and not hasattr(original, _MARK):
            _replace(package, original, _informed(original))


def _replace(package: str, original: Any, wrapped: Any) -> None:
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
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        if given.get("vanilla_generation"):
            if _is_ours(given["hparams"]):
                given["targets"] = _as_they_follow(given["tok"], given["prompts"], given["targets"])
            return original(*call.args, **call.kwargs)
        if not _wants_to_know(given["model"]):
            return original(*args, **kwargs)
        from easyedit_lifelong.models.prompt_positions import prompt_lengths

        with prompt_lengths(given["model"], _count(given, truncates)):
            return original(*args, **kwargs)

    setattr(scored, _MARK, True)
    return scored


def _is_ours(hparams: Any) -> bool:
    from easyedit_lifelong.plugins import get_plugins

    return get_plugins().method_for(hparams) is not None


def _as_they_follow(tok: Any, prompts: Any, targets: Any) -> Any:
    """Return each target, behind a space if its tokens after the prompt are those of it with one."""
    from easyedit_lifelong.models.encoding import encode_pair

    if isinstance(prompts, str):
        return _as_they_follow(tok, [prompts], [targets])[0]
    followed = []
    for prompt, target in zip(prompts, targets, strict=False):  # not strict: EasyEdit isn't either
        spaced = f" {target}"
        usual = isinstance(target, str) and target and not target[0].isspace()
        fits = usual and tok.encode(spaced, add_special_tokens=False) == encode_pair(tok, prompt, target).target
        followed.append(spaced if fits else target)
    return followed


def _wants_to_know(model: Any) -> bool:
    from torch import nn

    from easyedit_lifelong.models.prompt_positions import PositionTracker

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
