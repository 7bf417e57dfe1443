"""Attach an editor to a model that answers by putting texts in front of prompts.

The editor is called once for each pass that contains the ends of the prompts. The passes of a call of ``generate`` that
follow keep its texts. The hooks are on the model without its head, which every pass runs through.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.models.context_prefix import (
    ContextPrefix,
    check_layers,
    prefixed_arguments,
    read_contexts,
    without_prefix,
)
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.windows import Window, is_padding_mask
from easyedit_lifelong.models.wrappers import unwrap_model

Contexts = Callable[[Sequence[list[int]]], Sequence[list[int] | None] | None]
"""Returns the token ids of the text in front of each prompt, given the prompts' token ids; None for a prompt without
one, and None instead of the sequence if no prompt can have one."""


class ContextAttachment:
    """The connection of an editor to the input of a model.

    Args:
        model: a causal language model.
        contexts: the editor's function, which chooses the texts.
        beginning: the token that begins every text and that a row begins with, too; None if there is no such token.

    Raises:
        ModelError: the model cannot read texts in front of prompts.
    """

    def __init__(self, model: nn.Module, contexts: Contexts, beginning: Callable[[], int | None]) -> None:
        self.model, self.inner = unwrap_model(model), inner_model(model)
        self._contexts, self._beginning = contexts, beginning
        self._tracker = PositionTracker.attach(self.model)
        # Partial passes of other editors would begin without the texts.
        self._tracker.spanning += 1
        self._handles = [
            self.inner.register_forward_pre_hook(self._before_pass, with_kwargs=True),
            self.inner.register_forward_hook(self._after_pass),
        ]

    def detach(self) -> None:
        """Remove everything that the attachment put on the model."""
        for handle in self._handles:
            handle.remove()
        self._tracker.spanning -= 1
        self._tracker.detach()

    def _before_pass(self, inner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments of a pass with the texts in front of its rows; None to keep its arguments."""
        names = inspect.signature(inner.forward).parameters
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        window = self._tracker.window_of(inner, (), arguments)
        prefix = None if window is None else self._prefix_of(window, arguments)
        if window is None or prefix is None:
            return None
        self._check_pass(arguments, window)
        batch, columns = window.real.shape
        mask = arguments.get("attention_mask")
        real = window.real.new_ones(batch, window.past + columns) if mask is None else mask.bool()
        self._check_length(prefix.for_batch(batch), real)
        config = self.model.config.get_text_config(decoder=True)
        return (), prefixed_arguments(inner, config, arguments, real, window.past, prefix)

    def _after_pass(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Return the output of a pass with the caller's cache."""
        return without_prefix(output)

    def _prefix_of(self, window: Window, arguments: dict[str, Any]) -> ContextPrefix | None:
        """Return the texts of a pass; None if no row has one.

        Raises:
            EditError: the pass does not contain the ends of its prompts, so that no text can be chosen.
        """
        decisions = {} if window.generation is None else window.generation.decisions
        if id(self.inner) in decisions:
            prefix: ContextPrefix | None = decisions[id(self.inner)]
            return prefix
        if self._contexts([]) is None:
            return None
        ids = arguments.get("input_ids")
        if not isinstance(ids, Tensor):
            raise EditError("the edits choose a text for each prompt by its tokens: pass input_ids, not inputs_embeds")
        if window.past or (window.generation is not None and bool((window.ends < 0).any())):
            raise EditError(
                "the edits choose a text for each prompt, so a pass must begin with its first token and contain its "
                "last one. Use model.generate() to continue a text with a cache, without prefill_chunk_size, or leave "
                "past_key_values out and pass all tokens."
            )
        prefix = self._choose(ids, window)
        decisions[id(self.inner)] = prefix
        return prefix

    def _choose(self, ids: Tensor, window: Window) -> ContextPrefix | None:
        """Return the texts that the editor chooses for the prompts of a pass."""
        in_prompt = window.real & (torch.arange(ids.shape[1], device=ids.device) <= window.ends.unsqueeze(1))
        prompts = [row[real].tolist() for row, real in zip(ids, in_prompt, strict=True)]
        contexts = self._contexts([prompt for prompt in prompts if prompt])
        if contexts is None or all(context is None for context in contexts):
            return None
        chosen = iter(contexts)
        of_rows = [next(chosen) if prompt else None for prompt in prompts]
        unseen = torch.zeros_like(window.real)
        if (beginning := self._beginning()) is not None:
            is_beginning = window.real & (ids == beginning)
            # Padding counts as part of the beginning: with padding on the left, the row's first token follows it.
            unseen = is_beginning & (is_beginning | ~window.real).long().cumprod(dim=1).bool()
            unseen &= torch.tensor([context is not None for context in of_rows], device=ids.device).unsqueeze(1)
        return read_contexts(self.inner, of_rows, unseen)

    def _check_pass(self, arguments: dict[str, Any], window: Window) -> None:
        """Check that texts can be put in front of the rows of a pass.

        Raises:
            EditError: they cannot.
        """
        batch, columns = window.real.shape
        mask = arguments.get("attention_mask")
        if mask is not None and not is_padding_mask(mask, batch, window.past + columns):
            raise EditError(
                "the edits put texts in front of prompts, which needs an attention mask of shape (rows, tokens). "
                "Caches of fixed size (cache_implementation='static') are not supported."
            )
        if torch.is_grad_enabled() and any(
            module.training and getattr(module, "gradient_checkpointing", False) for module in self.model.modules()
        ):
            raise EditError(
                "gradient checkpointing drops the texts that the edits put in front of prompts. Call "
                "model.gradient_checkpointing_disable(), or roll the edits back."
            )

    def _check_length(self, prefix: ContextPrefix, real: Tensor) -> None:
        """Check that texts and rows fit the model's context.

        Raises:
            EditError: they do not.
        """
        limit = context_length(self.model)
        # The columns are known without waiting for the device.
        if limit is None or prefix.columns + real.shape[1] <= limit:
            return
        longest = int((prefix.real.sum(dim=1) + real.sum(dim=1)).max())
        if longest > limit:
            raise EditError(
                f"a prompt has {longest} tokens with the text that the edits put in front of it; the model's context "
                f"is {limit}. Shorten the prompt."
            )


def inner_model(model: Any) -> nn.Module:
    """Return a causal language model without its head.

    Raises:
        ModelError: the model is of another kind, or has no such part, or does not keep keys and values.
    """
    model = unwrap_model(model)
    inner = getattr(model, "base_model", None)
    if kind_of(model) is not ModelKind.CAUSAL or not isinstance(inner, nn.Module) or inner is model:
        raise ModelError(
            f"{type(model).__name__} is not a causal language model with a head, so it reads no text before a prompt"
        )
    if "past_key_values" not in inspect.signature(inner.forward).parameters:
        raise ModelError(
            f"{type(model).__name__} has no cache of keys and values, so no text can be put in front of a prompt"
        )
    check_layers(model.config)
    return inner
