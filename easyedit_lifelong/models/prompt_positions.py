"""Track where the prompt ends in every row of every forward pass.

An editor acts at each row's last prompt token. It must find this token for either padding side, in any batch, with and
without a KV cache. But the layer that it edits receives activations only. So one tracker per model wraps the model's
``forward`` and ``generate``, and publishes the column of each row's last prompt token while a forward pass runs. All
editors on the model share the tracker.

The last prompt token is:

- inside :func:`prompt_lengths`: the token that the caller's lengths determine (teacher-forced scoring);
- during ``generate``: the last real token of the prompt that ``generate`` received. Its column is absolute: it counts
  cached columns. So it is found in a pass that reads the full sequence (no cache) and in a pass that reads a chunk of
  the prompt. A pass that reads one new token does not contain it, and editors do nothing there. If the caller passes a
  cache to continue, the cache is emptied, so that the model reads the full prompt;
- with ``labels``: the token before the first label that isn't -100;
- otherwise: the last real token of the row, or none if the pass continues a cache. Such a row is *unmarked*: it may
  hold an answer as well, as in the rows that evaluation harnesses score. In a causal model, a token's hidden state
  depends on the tokens up to it alone, so editors can find an edit at any token of an unmarked row.

"Real" tokens are those that the attention mask includes; the others are padding.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.model_lock import model_lock
from easyedit_lifelong.models.overrides import CallWrapper, overridden, recomputing_in
from easyedit_lifelong.models.pickling import NotPicklable
from easyedit_lifelong.models.windows import (
    Generation,
    Window,
    column_of_token,
    columns_before,
    end_before_labels,
    is_padding_mask,
    last_token,
    mask_from_padding,
    real_tokens,
    repeat_rows,
    reset_cache,
)
from easyedit_lifelong.models.wrappers import unwrap_model

if TYPE_CHECKING:
    from easyedit_lifelong.models.attachment import Attachment

_ATTRIBUTE = "_easyedit_lifelong_positions"
_CONTINUOUS_BATCHING = "init_continuous_batching"
"""The method of transformers that begins continuous batching; ``generate_batch`` calls it."""


class PositionTracker(NotPicklable):
    """Publishes the :class:`Window` of the running forward pass of one model.

    Use :meth:`attach` to get a model's tracker. The tracker counts its users; the last :meth:`detach` removes it.

    Only one thread at a time is in a pass, in a call of ``generate``, or in a context of :meth:`using_lengths`.

    Args:
        model: the model, without wrappers of PEFT or ``torch.compile``.
        root: the model that ``model`` is the encoder or decoder of, or ``model`` itself. Its lock is used.

    Attributes:
        window: the running forward pass; None between passes.
        whole_prompt_layers: layers that must run in full passes, which read a prompt from its first token on.
        spanning: how many editors find an edit at one layer and apply it at a later one. They need full passes.
        pass_checks: functions that raise an error before a pass that the edits can't act in.
        attachments: the attachments of editors to the model's layers, in the order in which they act.
    """

    def __init__(self, model: nn.Module, root: nn.Module) -> None:
        self.model, self._root = model, root
        self.window: Window | None = None
        self._generation: Generation | None = None
        self._lengths: Tensor | None = None
        self._notes: dict[int, Any] | None = None
        self.whole_prompt_layers: list[nn.Module] = []
        self.spanning = 0
        self.pass_checks: list[Callable[[], None]] = []
        self.attachments: list[Attachment] = []
        self._users = 0
        self._in_pass = False
        self._forward_wrappers: list[CallWrapper] = []
        self._method_wrappers: list[CallWrapper] = []

    @classmethod
    def attach(cls, model: nn.Module, root: nn.Module | None = None) -> PositionTracker:
        """Return the model's tracker and count one more user of it; create the tracker if the model has none."""
        tracker = cls.of(model)
        if tracker is None:
            tracker = cls(unwrap_model(model), unwrap_model(model if root is None else root))
            tracker._wrap_calls()
        tracker._users += 1
        return tracker

    @classmethod
    def of(cls, model: nn.Module) -> PositionTracker | None:
        """Return the model's tracker, or None if it has none."""
        return unwrap_model(model).__dict__.get(_ATTRIBUTE)

    def current(self) -> Window | None:
        """Return the window of the running pass; None if the caller runs only a part of the model.

        Raises:
            EditError: the model's ``forward`` has been replaced, so that the tracker no longer sees its passes.
        """
        if (
            self.window is None
            and not self._in_pass
            and not all(wrapper.in_place() for wrapper in self._forward_wrappers)
        ):
            raise EditError(
                "the model's forward has been replaced since it was edited (have accelerate's hooks been removed?), "
                "so the edits can't find where prompts end. Roll the edits back, then load them or edit again."
            )
        return self.window

    def window_of(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Window | None:
        """Return the window of the running pass; if a pass is about to begin with a call of ``module``, of that pass.

        Raises:
            EditError: see :meth:`current`.
        """
        return self.current() or self._make_window(module, args, kwargs)

    def detach(self) -> None:
        """Count one user less; the last one restores the model's own ``forward`` and ``generate``."""
        self._users -= 1
        if self._users != 0:
            return
        for wrapper in (*self._forward_wrappers, *self._method_wrappers):
            wrapper.remove()
        self._forward_wrappers.clear()
        self._method_wrappers.clear()
        self.model.__dict__.pop(_ATTRIBUTE, None)

    def _wrap_calls(self) -> None:
        """Store the tracker on the model, and wrap the model's ``forward``, ``generate`` and continuous batching."""
        self.model.__dict__[_ATTRIBUTE] = self
        modules = [self.model]
        inner = getattr(self.model, "base_model", None)
        if inner is not None and inner is not self.model:
            modules.append(inner)  # some callers run the inner model, without the language-model head
        self._forward_wrappers = [CallWrapper(module, self._pass_context) for module in modules]
        if hasattr(self.model, "generate"):
            self._method_wrappers.append(CallWrapper(self.model, self._generate_context, "generate"))
        if hasattr(self.model, _CONTINUOUS_BATCHING):
            self._method_wrappers.append(CallWrapper(self.model, _refuse_continuous_batching, _CONTINUOUS_BATCHING))

    @contextlib.contextmanager
    def using_lengths(self, lengths: Sequence[int] | Tensor, notes: dict[int, Any] | None = None) -> Iterator[None]:
        """Return a context in whose passes the first ``lengths[i]`` real tokens of row i are its prompt.

        Args:
            lengths: the number of prompt tokens of each row.
            notes: the notes of the passes' windows, see :class:`.Window`. Passes over the same rows can share them. So
                a pass that skips the lower blocks has what these blocks' layers have stored in an earlier pass.
        """
        with self._with_attribute("_lengths", torch.as_tensor(lengths)), self._with_attribute("_notes", notes):
            yield

    def generating(self, generation: Generation) -> contextlib.AbstractContextManager[None]:
        """Return a context whose passes belong to one call of ``generate``."""
        return self._with_attribute("_generation", generation)

    @contextlib.contextmanager
    def _with_attribute(self, name: str, value: Any) -> Iterator[None]:
        """Set an attribute for the passes of this thread inside the context; other threads wait for its end."""
        with model_lock(self._root), overridden(name, {self: value}):
            yield

    def _generate_context(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Return the context in which a call of ``generate`` runs."""
        prompts = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs", kwargs.get("inputs_embeds")))
        if not isinstance(prompts, Tensor):
            return contextlib.nullcontext()
        mask = kwargs.get("attention_mask")
        if mask is None and not prompts.is_floating_point():
            mask = mask_from_padding(prompts, model)
        reset_cache(kwargs.get("past_key_values"), prompts)
        ids = None if prompts.is_floating_point() else prompts
        return self.generating(Generation(real_tokens(mask, prompts.shape[0], prompts.shape[1], prompts.device), ids))

    @contextlib.contextmanager
    def _pass_context(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Publish the window of the forward pass that runs in this context."""
        with model_lock(self._root):
            if self._in_pass:
                yield  # the outer model's forward, which also receives the labels, has set the window
                return
            for check in self.pass_checks:
                check()
            self._in_pass = True
            try:
                self.window = self._make_window(module, args, kwargs)
                if self._generation is not None and self.window is not None:
                    self._generation.columns_read = self.window.past + self.window.real.shape[1]
                restore_window = functools.partial(overridden, "window", {self: self.window})
                with recomputing_in(self.model, restore_window):
                    yield
            finally:
                self._in_pass, self.window = False, None

    def _make_window(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Window | None:
        """Return the window of a forward pass; None if its arguments contain no tokens."""
        if args:  # the order of positional arguments differs between model families
            kwargs = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds")
        if not isinstance(tokens, Tensor):
            return None
        (batch, length), device, generation = tokens.shape[:2], tokens.device, self._generation
        past, mask = columns_before(kwargs, generation), kwargs.get("attention_mask")
        real = real_tokens(mask, batch, past + length, device)
        if generation is not None and mask is not None and not is_padding_mask(mask, batch, past + length):
            # generate() has turned the padding mask into an attention mask, e.g. for a cache of fixed size.
            real = generation.real_tokens(batch, past + length, device)
        last_prompt_column = 0 if generation is None else generation.last
        after_prompts = self._lengths is None and past > last_prompt_column
        ends = torch.full((batch,), -1, device=device)
        labelled_ends = end_before_labels(kwargs.get("labels"), real)
        if not after_prompts:
            columns = self._prompt_ends(real, past, labelled_ends) - past
            ends = torch.where((columns >= 0) & (columns < length), columns, ends)
        unmarked = self._unmarked_rows(past, labelled_ends)
        notes = {} if self._notes is None else self._notes
        ids = None if tokens.is_floating_point() else tokens
        return Window(ends, real[:, past:], past, generation, after_prompts, unmarked, notes, ids)

    def _prompt_ends(self, real: Tensor, past: int, labelled_ends: Tensor) -> Tensor:
        """Return the absolute column of each row's last prompt token, ``(batch,)``; -1 where there is none.

        Args:
            real: which columns hold tokens, shape ``(batch, columns)``.
            past: the number of cached columns.
            labelled_ends: the result of :func:`.end_before_labels`, shape ``(batch,)``.
        """
        if self._lengths is not None:
            return column_of_token(real, self._lengths.to(real.device))
        if self._generation is not None:
            return repeat_rows(self._generation.ends.to(real.device), len(real))
        if past:
            return torch.full((len(real),), -1, device=real.device)
        return torch.where(labelled_ends >= 0, labelled_ends, last_token(real))

    def _unmarked_rows(self, past: int, labelled_ends: Tensor) -> Tensor | None:
        """Return which rows are unmarked, ``(batch,)``; see :class:`.Window`. None if lengths or prompts are known."""
        if self._lengths is not None or self._generation is not None:
            return None
        if past:
            return torch.ones_like(labelled_ends, dtype=torch.bool)
        return labelled_ends < 0


def _refuse_continuous_batching(*_: Any) -> contextlib.AbstractContextManager[None]:
    """Refuse a call that begins continuous batching.

    Raises:
        EditError: always.
    """
    raise EditError(
        "transformers' continuous batching (generate_batch, or cache_implementation='paged') joins several prompts to "
        "one row, in which edits can't find where prompts end. Use generate() with another cache on an edited model; "
        "for a server, `easyedit-lifelong serve` has continuous batching."
    )


def full_prompt_layers(model: Any) -> Sequence[nn.Module]:
    """Return the layers of a model that must see a prompt in one pass, from its first token on."""
    tracker = PositionTracker.of(model)
    return () if tracker is None else tracker.whole_prompt_layers


def prompt_lengths(
    model: Any, lengths: Sequence[int] | Tensor, notes: dict[int, Any] | None = None
) -> contextlib.AbstractContextManager[None]:
    """Return a context for forward passes in which an edited model knows the length of each row's prompt.

    Teacher-forced scoring runs the model on prompt and answer in one row. With the lengths, an edited model finds where
    the prompt ends. Models without edits ignore the lengths.

    Args:
        model: any model, edited or not.
        lengths: number of prompt tokens of each row, without padding, shape ``(batch,)``.
        notes: see :meth:`PositionTracker.using_lengths`.
    """
    tracker = PositionTracker.of(model) if isinstance(model, nn.Module) else None
    return tracker.using_lengths(lengths, notes) if tracker else contextlib.nullcontext()
