"""Where the prompt ends, in every row of every forward pass.

GRACE looks its codebook up at each row's last prompt token, and must do so whatever the padding
side, the batch, or the use of a KV cache. An editor's layer sees activations only, so one tracker
per model watches the model's own ``forward`` and ``generate`` and publishes, for the pass under way,
the column of each row's last prompt token. Every editor on the model shares it.

What the last prompt token is:

- inside :func:`prompt_lengths`, what the caller said (teacher-forced scoring);
- during ``generate``, the last real token of the prompt that ``generate`` was given. Columns are
  counted in absolute terms, so a pass finds it whether it feeds the whole sequence (no cache), the
  prompt in chunks, or one new token (then it isn't in the window, and nothing is looked up). A cache
  to continue is emptied, so that the prompt is read as a whole;
- with ``labels``, the token before the first that isn't -100;
- else the last real token of the row, or nothing if the pass continues a cache.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.encoding import IGNORED
from easyedit_lifelong.models.watching import Watch, recomputing_in
from easyedit_lifelong.models.wrappers import bare_model

_ATTRIBUTE = "_easyedit_lifelong_positions"


@dataclass
class Generation:
    """One call of ``generate``: its prompts' ends, and what each layer decided about them.

    Attributes:
        ends: absolute column of each prompt's last real token, shape ``(batch,)``.
        real: which columns of the prompts hold tokens, shape ``(batch, tokens)``.
        decisions: what a layer wants to remember between passes, by layer.
        last: the last of ``ends``.
    """

    ends: Tensor
    real: Tensor
    decisions: dict[int, Any] = field(default_factory=dict)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        """Fetch the last end once, so that no later pass has to wait for the device to tell that it is past."""
        self.last = int(self.ends.max())

    def real_tokens(self, batch: int, length: int, device: torch.device) -> Tensor:
        """Return which columns of a pass, cached ones included, hold tokens: ``(batch, length)``."""
        real = repeated(self.real.to(device), batch)[:, :length]
        return torch.nn.functional.pad(real, (0, length - real.shape[1]), value=True)


@dataclass(frozen=True)
class Window:
    """The pass under way.

    Attributes:
        ends: column, within this pass, of each row's last prompt token; -1 where this pass doesn't
            hold it. Shape ``(batch,)``.
        real: which columns of this pass hold tokens, not padding. Shape ``(batch, tokens)``.
        past: number of columns that the pass reads from a cache.
        generation: the call of ``generate`` that this pass belongs to, if any.
        behind: whether this pass is known, without asking the device, to come after every prompt's end.
        notes: what a layer wants a later one to know of this pass, by layer.
    """

    ends: Tensor
    real: Tensor
    past: int
    generation: Generation | None
    behind: bool = False
    notes: dict[int, Any] = field(default_factory=dict)


class PositionTracker:
    """Publishes :attr:`window` while the model it is attached to computes.

    Get it with :meth:`attach`; it counts its users and goes with the last one's :meth:`detach`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.window: Window | None = None
        self._generation: Generation | None = None
        self._lengths: Tensor | None = None
        self.whole_prompts = 0
        """How many layers must see a prompt in one pass, from its first token on."""
        self.spanning = 0
        """How many editors do at one layer what they found at an earlier one: only whole passes show what they do."""
        self._users = 0
        self._inside = False
        self._watches: list[Watch] = []
        self._generate_before: Any = None

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
        """Return the window of the pass under way; None if somebody runs a part of the model alone.

        Raises:
            EditError: the model's pass can't be seen, because its ``forward`` has been replaced.
        """
        if self.window is None and not self._inside and not all(watch.in_place() for watch in self._watches):
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
        for watch in self._watches:
            watch.remove()
        self._watches.clear()
        self.model.__dict__.pop("generate", None)
        if self._generate_before is not None:
            self.model.__dict__["generate"] = self._generate_before
        self.model.__dict__.pop(_ATTRIBUTE, None)

    def _install(self) -> None:
        self.model.__dict__[_ATTRIBUTE] = self
        # Some callers go to the inner model, past the language-model head; its forward counts too.
        inner = getattr(self.model, "base_model", None)
        watched = [self.model] if inner is None or inner is self.model else [self.model, inner]
        self._watches = [Watch(module, self._passing) for module in watched]
        if hasattr(self.model, "generate"):
            # On the instance, so that the class, and every other model of it, stays as it is.
            self._generate_before = self.model.__dict__.get("generate")
            self.model.__dict__["generate"] = types.MethodType(_generate, self.model)

    @contextlib.contextmanager
    def given_lengths(self, lengths: Sequence[int] | Tensor) -> Iterator[None]:
        """Take the first ``lengths[i]`` real tokens of row i as its prompt in the passes inside."""
        before, self._lengths = self._lengths, torch.as_tensor(lengths)
        try:
            yield
        finally:
            self._lengths = before

    @contextlib.contextmanager
    def generating(self, real: Tensor) -> Iterator[None]:
        """Take the passes inside for one call of ``generate`` on prompts whose real tokens are these."""
        before, self._generation = self._generation, Generation(_last_real(real), real)
        try:
            yield
        finally:
            self._generation = before

    @contextlib.contextmanager
    def _passing(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Publish the window of the pass inside; not with hooks, which an interrupt would leave half done."""
        if self._inside:
            yield  # the outer forward knows more (labels), and has said it
            return
        self._inside = True
        try:
            self._look(module, args, kwargs)
            with recomputing_in(self.model, functools.partial(self._within, self.window)):
                yield
        finally:
            self._inside, self.window = False, None

    @contextlib.contextmanager
    def _within(self, window: Window | None) -> Iterator[None]:
        before, self.window = self.window, window
        try:
            yield
        finally:
            self.window = before

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:  # families order their positional arguments differently
            kwargs = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds")
        if not isinstance(tokens, Tensor):
            self.window = None
            return
        batch, length = tokens.shape[:2]
        past = _cached_length(kwargs.get("past_key_values"))
        mask = kwargs.get("attention_mask")
        real = _real_tokens(mask, batch, past + length, tokens.device)
        if self._generation is not None and mask is not None and not _is_plain(mask, batch, past + length):
            # generate() has made an attention pattern of it: for a cache of fixed size, say.
            real = self._generation.real_tokens(batch, past + length, tokens.device)
        behind = self._lengths is None and past > (self._generation.last if self._generation is not None else 0)
        if behind:
            ends = torch.full((batch,), -1, device=tokens.device)
        else:
            ends = self._ends(real, past, kwargs.get("labels")) - past
            ends = torch.where((ends >= 0) & (ends < length), ends, -1)
        self.window = Window(ends, real[:, past:], past, self._generation, behind)

    def _ends(self, real: Tensor, past: int, labels: Any) -> Tensor:
        """Return the column of each row's last prompt token, cached columns counted, ``(batch,)``; -1 for none."""
        batch, device = len(real), real.device
        if self._lengths is not None:
            return _column_of_token(real, self._lengths.to(device))
        if self._generation is not None:
            return repeated(self._generation.ends.to(device), batch)
        if past:
            return torch.full((batch,), -1, device=device)
        return _ends_before_labels(labels, real)


@contextlib.contextmanager
def prompt_lengths(model: Any, lengths: Sequence[int] | Tensor) -> Iterator[None]:
    """Say how many real tokens of each row are its prompt, for the forward passes inside.

    Teacher-forced scoring feeds prompt and answer together; this is how an edited model learns
    where the one ends. Models that carry no edit ignore it.

    Args:
        model: any model, edited or not.
        lengths: number of prompt tokens of each row (padding not counted), shape ``(batch,)``.
    """
    tracker = PositionTracker.of(model) if isinstance(model, nn.Module) else None
    with tracker.given_lengths(lengths) if tracker else contextlib.nullcontext():
        yield


def _generate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """``generate`` of the model's class, with the prompts' ends known to the editors on it."""
    tracker = PositionTracker.of(self)
    own = tracker._generate_before if tracker else None
    original = own if own is not None else functools.partial(type(self).generate, self)
    prompts = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs", kwargs.get("inputs_embeds")))
    if tracker is None or not isinstance(prompts, Tensor):
        return original(*args, **kwargs)
    mask = kwargs.get("attention_mask")
    if mask is None and not prompts.is_floating_point():
        mask = _mask_from_padding(prompts, self)
    _empty(kwargs.get("past_key_values"), prompts)
    real = _real_tokens(mask, prompts.shape[0], prompts.shape[1], prompts.device)
    with tracker.generating(real):
        return original(*args, **kwargs)


def _empty(cache: Any, prompts: Tensor) -> None:
    """Have a cache that ``generate`` is to continue filled anew: an edit acts on prompts as a whole.

    What was cached belongs to shorter prompts, which other edits, or none, answered. The prompts
    that ``generate`` is given have its tokens, too, so all that is lost is the time to read them again.
    """
    length = _cached_length(cache)
    if not length:
        return
    if length < prompts.shape[1] and not prompts.is_floating_point() and hasattr(cache, "reset"):
        cache.reset()
        if not _cached_length(cache):
            return
    raise EditError(
        f"generate() is to continue a cache of {length} tokens, and an edited model has to read its prompts as a "
        "whole. Pass input_ids with all tokens of the prompts, those in the cache included, or no past_key_values."
    )


def _mask_from_padding(prompts: Tensor, model: Any) -> Tensor | None:
    """Infer the mask as ``generate`` does: padding shows if its token differs from end-of-text."""
    config = getattr(model, "generation_config", None)
    pad, eos = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
    ends = eos if isinstance(eos, (list, tuple)) else [eos]
    return prompts.ne(pad) if pad is not None and pad not in ends else None


def _cached_length(cache: Any) -> int:
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0][0].shape[-2])


def _real_tokens(mask: Any, batch: int, length: int, device: torch.device) -> Tensor:
    """Return which columns hold real tokens, shape ``(batch, length)``, cached columns included."""
    if _is_plain(mask, batch, length):
        return mask.to(device).bool()
    return torch.ones(batch, length, dtype=torch.bool, device=device)


def _is_plain(mask: Any, batch: int, length: int) -> bool:
    return isinstance(mask, Tensor) and mask.shape == (batch, length)


def _last_real(real: Tensor) -> Tensor:
    columns = torch.arange(real.shape[1], device=real.device)
    return torch.where(real, columns, -1).amax(dim=1)


def _column_of_token(real: Tensor, count: Tensor) -> Tensor:
    """Return the column of each row's ``count``-th real token, -1 where a row has fewer."""
    reached = (real.long().cumsum(dim=1) == count.unsqueeze(1)) & real
    return torch.where(reached.any(dim=1), reached.long().argmax(dim=1), -1)


def _ends_before_labels(labels: Any, real: Tensor) -> Tensor:
    last = _last_real(real)
    if not isinstance(labels, Tensor) or labels.shape != real.shape:
        return last
    answered = labels != IGNORED
    before = answered.long().argmax(dim=1) - 1
    # Labels from the first real token on (plain language modelling) mark no prompt.
    has_prompt = answered.any(dim=1) & (before >= 0) & real.gather(1, before.clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(has_prompt, before, last)


def repeated(ends: Tensor, batch: int) -> Tensor:
    """Repeat each prompt's end for its beams or samples, as ``generate`` repeats its rows."""
    if batch == len(ends):
        return ends
    if batch % len(ends):
        raise EditError(
            f"generate() runs {batch} rows for {len(ends)} prompts; where each prompt ends can't be told. "
            "This decoding mode is not supported on an edited model."
        )
    return ends.repeat_interleave(batch // len(ends))
