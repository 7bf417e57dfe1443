"""The command ``generate``: continue prompts with a model that has saved edits, and with the base model."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.text import Text

from easyedit_lifelong.commands.saved_edits import saved_edits_from
from easyedit_lifelong.edits import load_edits
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.chat_requests import chat_settings
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.models.chat_form import ChatForm, check_can_chat
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.pair_encoders import check_vocabulary
from easyedit_lifelong.reporting.console_tables import print_json
from easyedit_lifelong.reporting.terminal import Console

LOG = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Print the edited model's continuation of each prompt.

    Raises:
        LifelongError: an input can't be used.
    """
    chat = chat_settings(arguments.chat, arguments.system)
    saved = saved_edits_from(arguments)
    model, tokenizer = saved.base_model()
    form = None
    if chat is not None:
        check_can_chat(model)
        form = ChatForm(tokenizer, chat.system)
    _warn_of_other_forms(saved.edits, form)
    prompts = [prompt if form is None else form.prompt(prompt) for prompt in arguments.prompt]
    _check_prompts(prompts, model, tokenizer)
    base = _continuations(arguments, prompts, model, tokenizer) if arguments.compare else None
    load_edits(model, saved.folder, tokenizer)
    edited = _continuations(arguments, prompts, model, tokenizer)
    console = Console()
    if arguments.json:
        rows = [{"prompt": prompt, "edited": text} for prompt, text in zip(arguments.prompt, edited, strict=True)]
        if base is not None:
            rows = [{**row, "base": text} for row, text in zip(rows, base, strict=True)]
        print_json(console, rows)
        return 0
    for number, prompt in enumerate(arguments.prompt):
        if number:
            console.print()
        if base is None:
            _show(console, prompt, edited[number])
        else:
            _show(console, prompt, base[number], "base    ")
            _show(console, prompt, edited[number], "edited  ")
    return 0


def _warn_of_other_forms(edits: Sequence[Mapping[str, Any]], form: ChatForm | None) -> None:
    """Log a warning if edits were made in another form than that of the prompts, since they may not answer in it.

    Args:
        edits: the records of the saved edits.
        form: the chat form of the prompts; None for prompts as they are.
    """
    in_chat = [edit for edit in edits if edit.get("question") is not None]
    if form is None and in_chat:
        LOG.warning(
            "Edits made in chat form (%d of %d) may not answer plain prompts; --chat asks in that form",
            len(in_chat),
            len(edits),
        )
    if form is None:
        return
    other_chat = sum(form.prompt(edit["question"]) != edit["prompt"] for edit in in_chat)
    if plain := len(edits) - len(in_chat):
        LOG.warning("Edits made on plain prompts (%d of %d) may not answer in a chat", plain, len(edits))
    if other_chat:
        LOG.warning(
            "Edits made with another system message or after earlier turns: %d of %d; see --system",
            other_chat,
            len(edits),
        )


def _check_prompts(prompts: list[str], model: Any, tokenizer: Any) -> None:
    """Check that no prompt is empty or longer than the model's context.

    Raises:
        DataError: a prompt can't be used.
    """
    is_classifier = kind_of(model) is ModelKind.CLASSIFIER
    limit = None if is_classifier else context_length(model)  # the input of classifiers is truncated
    for prompt in prompts:
        ids = encode_text(tokenizer, prompt)
        length = len(ids)
        check_vocabulary(model, tokenizer, ids)
        if length == 0:
            raise DataError(f"--prompt {prompt!r}: is empty; give some text to continue")
        if limit is not None and length > limit:
            raise DataError(f"--prompt {prompt[:40]!r}…: has {length} tokens, the model's context is {limit}")


def _continuations(arguments: argparse.Namespace, prompts: list[str], model: Any, tokenizer: Any) -> list[str]:
    """Return the model's continuation of each prompt.

    Decoding is greedy, unless a temperature above 0 or ``--top-p`` is given.
    """
    scorer = scorer_for(model, tokenizer)
    new_tokens = arguments.max_new_tokens
    if arguments.temperature == 0 or (arguments.temperature is None and arguments.top_p is None):
        return scorer.generate(model, prompts, new_tokens)
    given = {"temperature": arguments.temperature, "top_p": arguments.top_p}
    sampling = {"top_k": 0, **{name: 1.0 if value is None else value for name, value in given.items()}}
    texts = []
    for prompt in prompts:
        # Each prompt alone and with the same seed, so that its text doesn't depend on the other prompts.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(arguments.seed)
            texts += scorer.generate(model, [prompt], new_tokens, sampling=sampling)
    return texts


def _show(console: Console, prompt: str, text: str, label: str = "") -> None:
    """Print a prompt, an arrow and the continuation. Some tokenizers drop the space between the two texts."""
    line = Text.assemble((label, "dim"), prompt, (" → ", "dim"), (text.removeprefix(" "), "bold"))
    console.print(line, soft_wrap=True)
