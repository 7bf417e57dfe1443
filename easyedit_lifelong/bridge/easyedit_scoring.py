"""Wrap EasyEdit's scoring functions so that they score edited models correctly.

EasyEdit scores by teacher forcing: it runs the model on prompt and target together and compares its output at each
target token. A method that acts at the prompt end can't tell from this input where the prompt ends. The wrapper passes
the lengths of the prompts to models that need them.

The main branch scores methods called GRACE by generation. It compares the generated tokens with those of the target
without a leading space. After a prompt, most tokenizers encode the target with the space, as other tokens, so a perfect
edit would score 0. For our methods, the wrapper adds the space to the target.
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
    """Wrap EasyEdit's scoring functions in every module of EasyEdit that has imported them.

    A second call does nothing.

    Args:
        package: the name of EasyEdit's package.
    """
    utils = importlib.import_module(f"{package}.evaluate.evaluate_utils")
    for name in ("test_prediction_acc", "F1"):  # F1: in the main branch only
        original = wrap(utils, name, _score)
        if original is None:  # the function does not exist, or is wrapped already
            continue
        for module in easyedit_modules():
            for key in [key for key, value in vars(module).items() if value is original]:
                setattr(module, key, getattr(utils, name))


def _score(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a scoring function with corrected targets, or with the lengths of the prompts made known to the model."""
    signature = inspect.signature(original)
    call = signature.bind(*args, **kwargs)
    call.apply_defaults()
    arguments = call.arguments
    model = arguments["model"]
    if arguments.get("vanilla_generation"):
        if get_plugins().method_for(arguments["hparams"]) is not None:
            arguments["targets"] = with_leading_spaces(arguments["tok"], arguments["prompts"], arguments["targets"])
        return original(*call.args, **call.kwargs)
    if not isinstance(model, nn.Module) or PositionTracker.of(model) is None:
        return original(*args, **kwargs)
    # The release truncates inputs at max_length; the main branch doesn't.
    truncates = "vanilla_generation" not in signature.parameters
    with prompt_lengths(model, _prompt_token_counts(arguments, truncates)):
        return original(*args, **kwargs)


def with_leading_spaces(tok: Any, prompts: Any, targets: Any) -> Any:
    """Return each target with a leading space if this gives the tokens that follow the prompt, else unchanged."""
    if isinstance(prompts, str):
        return with_leading_spaces(tok, [prompts], [targets])[0]
    result = []
    for prompt, target in zip(prompts, targets, strict=False):  # EasyEdit allows different lengths
        spaced = f" {target}"
        is_word = isinstance(target, str) and target and not target[0].isspace()
        fits = is_word and tok.encode(spaced, add_special_tokens=False) == encode_pair(tok, prompt, target).target
        result.append(spaced if fits else target)
    return result


def _prompt_token_counts(arguments: dict[str, Any], truncates: bool) -> list[int]:
    """Return the number of tokens of each prompt, special tokens included, as EasyEdit counts them.

    Args:
        arguments: the arguments of the scoring function, by name.
        truncates: whether the function truncates its input at ``hparams.max_length``.
    """
    tok, hparams, prompts = arguments["tok"], arguments["hparams"], arguments["prompts"]
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not arguments.get("locality") and getattr(hparams, "use_chat_template", False):
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        prompts = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    lengths = [len(ids) for ids in tok(prompts)["input_ids"]]
    return [min(length, hparams.max_length) for length in lengths] if truncates else lengths
