"""Where the prompt ends, in every row of every forward pass.

An editor looks at each row's last prompt token, and must find it whatever the padding side, the batch, or
the use of a KV cache. An editor's layer sees activations only. So one tracker per model wraps the model's
own ``forward`` and ``generate`` and publishes, for the pass under way, the column of each row's last prompt
token. Every editor on the model shares it.

The last prompt token is:

- inside :func:`prompt_lengths`, the one that the caller gave (teacher-forced scoring);
- during ``generate``, the last real token of the prompt that ``generate`` was given. Columns are
  counted in absolute terms, so a pass finds it whether it gets the full sequence (no cache), the
  prompt in chunks, or one new token (then it isn't in the window, and nothing is looked up). A cache
  to continue is emptied, so that the prompt is read in full;
- with ``labels``, the token before the first that isn't -100;
- else the last real token of the row, or nothing if the pass continues a cache.

The two stacks of an encoder-decoder model read different tokens, and ``generate`` and teacher forcing call each stack
separately, so each has its own tracker. An encoder reads the prompt, and nothing else: its last real token is the
prompt's last. A decoder reads the answer. Its start token stands before the answer, and so in the place of a prompt.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.overrides import CallWrapper, overridden, recomputing_in
from easyedit_lifelong.models.windows import (
    Generation,
    Window,
    cached_length,
    column_of_token,
    end_before_labels,
    is_padding_mask,
    mask_from_padding,
    real_tokens,
    repeated,
    reset_cache,
)
from easyedit_lifelong.models.wrappers import bare_model

_ATTRIBUTE = "_easyedit_lifelong_positions"


class PositionTracker:
    """Publishes :attr:`window` while the model it is attached to computes.

    Get it with :meth:`attach`; it counts its users and goes with the last one's :meth:`detach`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.window: Window | None = None
        self._generation: Generation | None = None
        self._lengths: Tensor | None = None
        self.whole_prompt_layers: list[nn.Module] = []
        """Layers that must see a prompt in one pass, from its first token on."""
        self.spanning = 0
        """How many editors act at one layer on what they found at an earlier one: they need full passes."""
        self._users = 0
        self._inside = False
        self._wrappers: list[CallWrapper] = []
        self._generate: CallWrapper | None = None

    @classmethod
    def attach(cls, model: nn.Module) -> PositionTracker:
        """Return the model's tracker, putting one on the model if it has none."""
        tracker = cls.of(model)
        if tracker is None:
            tracker = cls(bare_model(model))
            tracker._install()
        tracker._users += 1
        return tracker

    @classmethod
    def of(cls, model: nn.Module) -> PositionTracker | None:
        """Return the model's tracker, if it has one."""
        return bare_model(model).__dict__.get(_ATTRIBUTE)

    def current(self) -> Window | None:
        """Return the window of the pass under way; None if a caller runs a part of the model alone.

        Raises:
            EditError: the model's pass can't be seen, because its ``forward`` has been replaced.
        """
        if self.window is None and not self._inside and not all(wrapper.in_place() for wrapper in self._wrappers):
            raise EditError(
                "the model's forward has been replaced since it was edited (did accelerate's hooks come off?), so "
                "where prompts end can't be seen. Roll the edits back, and load or make them again."
            )
        return self.window

    def detach(self) -> None:
        """Release one use; with the last one, the model is as it was before the first."""
        self._users -= 1
        if self._users != 0:
            return
        for wrapper in (*self._wrappers, *([self._generate] if self._generate else [])):
            wrapper.remove()
        self._wrappers.clear()
        self._generate = None
        self.model.__dict__.pop(_ATTRIBUTE, None)

    def _install(self) -> None:
        self.model.__dict__[_ATTRIBUTE] = self
        # Some callers call the inner model, without the language-model head; its forward counts too.
        inner = getattr(self.model, "base_model", None)
        wrapped = [self.model] if inner is None or inner is self.model else [self.model, inner]
        self._wrappers = [CallWrapper(module, self._passing) for module in wrapped]
        if hasattr(self.model, "generate"):
            self._generate = CallWrapper(self.model, self._generating, "generate")

    def given_lengths(self, lengths: Sequence[int] | Tensor) -> contextlib.AbstractContextManager[None]:
        """Take the first ``lengths[i]`` real tokens of row i as its prompt in the passes inside."""
        return overridden("_lengths", {self: torch.as_tensor(lengths)})

    def generating(self, real: Tensor) -> contextlib.AbstractContextManager[None]:
        """Take the passes inside for one call of ``generate`` on prompts whose real tokens are these."""
        return overridden("_generation", {self: Generation(real)})

    def _generating(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Return the context of a call of ``generate``."""
        prompts = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs", kwargs.get("inputs_embeds")))
        if not isinstance(prompts, Tensor):
            return contextlib.nullcontext()
        mask = kwargs.get("attention_mask")
        if mask is None and not prompts.is_floating_point():
            mask = mask_from_padding(prompts, model)
        reset_cache(kwargs.get("past_key_values"), prompts)
        return self.generating(real_tokens(mask, prompts.shape[0], prompts.shape[1], prompts.device))

    @contextlib.contextmanager
    def _passing(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Publish the window of the pass inside."""
        if self._inside:
            yield  # the outer forward has more arguments (labels), and has set the window
            return
        self._inside = True
        try:
            self.window = self._window(module, args, kwargs)
            again = functools.partial(overridden, "window", {self: self.window})
            with recomputing_in(self.model, again):
                yield
        finally:
            self._inside, self.window = False, None

    def _window(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Window | None:
        """Return the window of a pass with these arguments; None if they hold no tokens."""
        if args:  # families order their positional arguments differently
            kwargs = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds")
        if not isinstance(tokens, Tensor):
            return None
        (batch, length), device, generation = tokens.shape[:2], tokens.device, self._generation
        past, mask = cached_length(kwargs.get("past_key_values")), kwargs.get("attention_mask")
        real = real_tokens(mask, batch, past + length, device)
        if generation is not None and mask is not None and not is_padding_mask(mask, batch, past + length):
            # generate() has made an attention pattern of it: for a cache of fixed size, say.
            real = generation.real_tokens(batch, past + length, device)
        behind = self._lengths is None and past > (generation.last if generation is not None else 0)
        ends = torch.full((batch,), -1, device=device)
        if not behind:
            found = self._ends(real, past, kwargs.get("labels")) - past
            ends = torch.where((found >= 0) & (found < length), found, ends)
        return Window(ends, real[:, past:], past, generation, behind)

    def _ends(self, real: Tensor, past: int, labels: Any) -> Tensor:
        """Return the column of each row's last prompt token, cached columns counted, ``(batch,)``; -1 for none."""
        if self._lengths is not None:
            return column_of_token(real, self._lengths.to(real.device))
        if self._generation is not None:
            return repeated(self._generation.ends.to(real.device), len(real))
        return torch.full((len(real),), -1, device=real.device) if past else end_before_labels(labels, real)


class DecoderTracker(PositionTracker):
    """Takes a decoder's start token for its prompt. Get it with :func:`attach_tracker`."""

    def wrap_generate(self, model: Any) -> None:
        """Tell passes of ``generate`` from others: it is a method of the full model, not of the decoder."""
        if self._generate is None and hasattr(model, "generate"):
            self._generate = CallWrapper(model, self._generating, "generate")

    def _generating(self, *_: Any) -> contextlib.AbstractContextManager[None]:
        # One start token a row; how many rows there are shows in the first pass.
        return self.generating(torch.ones(1, 1, dtype=torch.bool))

    def _ends(self, real: Tensor, past: int, labels: Any) -> Tensor:
        if self._generation is None and past:
            return torch.full((len(real),), -1, device=real.device)
        return real.long().argmax(dim=1)


def stack_of(model: Any, layer: nn.Module) -> nn.Module:
    """Return the part of a model whose passes say where a layer's tokens are.

    Returns:
        The encoder or the decoder that holds the layer; of any other kind of model, the model itself.

    Raises:
        ModelError: the layer is in neither.
    """
    if kind_of(model) is not Kind.SEQ2SEQ:
        return model
    for stack in (model.get_encoder(), model.get_decoder()):
        if any(module is layer for module in stack.modules()):
            return stack
    raise ModelError(f"this {type(layer).__name__} is in neither encoder nor decoder; name one of their layers")


def attach_tracker(model: Any, layer: nn.Module) -> PositionTracker | None:
    """Return the tracker that knows the positions of a layer's tokens; None for a plain module, which has none.

    Raises:
        ModelError: the layer is in neither stack of an encoder-decoder model.
    """
    if kind_of(model) is Kind.MODULE:
        return None
    stack = stack_of(model, layer)
    if stack is model or stack is model.get_encoder():
        return PositionTracker.attach(stack)
    tracker = DecoderTracker.attach(stack)
    assert isinstance(tracker, DecoderTracker)
    tracker.wrap_generate(model)
    return tracker


def whole_prompt_layers(model: Any) -> Sequence[nn.Module]:
    """Return a model's layers that must see a prompt in one pass, from its first token on."""
    tracker = PositionTracker.of(model)
    return () if tracker is None else tracker.whole_prompt_layers


def prompt_lengths(model: Any, lengths: Sequence[int] | Tensor) -> contextlib.AbstractContextManager[None]:
    """Give the number of real tokens of each row that are its prompt, for the forward passes inside.

    Teacher-forced scoring feeds prompt and answer together. So an edited model finds where the prompt ends. Models that
    carry no edit ignore it.

    Args:
        model: any model, edited or not.
        lengths: number of prompt tokens of each row (padding not counted), shape ``(batch,)``.
    """
    tracker = PositionTracker.of(model) if isinstance(model, nn.Module) else None
    return tracker.given_lengths(lengths) if tracker else contextlib.nullcontext()
