"""The hook layer: on one projection of the model, it decides token by token whether edits are in scope.

The projection itself isn't touched. The hook layer holds the difference between the hook weight and
the original one, ΔW = W_h - W_0, as a child of the projection, so that it is saved and moved with the
model, and adds ΔW k to the projection's output P = W_0 k where it uses O = W_h k (section 3.2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.windows import Window

CHILD = "coachhook"

_IN_PARTS = (
    "a prompt that is fed in parts (in chunks, or behind a cache of your own) can't be answered with CoachHook's "
    "edits: its z-scores need all of it"
)


class Mode(Enum):
    """What a hook layer does with a token (section 3.2)."""

    OFF = "off"
    """Nothing: the original output everywhere."""
    TEMPORARY = "temporary"
    """The hook weight's output everywhere, while keys and residuals are taken."""
    VALIDATED = "validated"
    """The hook weight's output where the score is at least α."""


class HookWeight(nn.Module):
    """ΔW and α of one hook layer: tensors of the model that keep their own dtype.

    Args:
        delta: W_h - W_0, shape ``(outputs, inputs)``.
        alpha: score from which on the hook weight is used.
        ordinary: root mean square of ‖ΔW k‖ over ordinary text, if scores are weighed by it.
    """

    delta: Tensor
    alpha: Tensor
    ordinary: Tensor | None

    def __init__(self, delta: Tensor, alpha: float, ordinary: float | None = None) -> None:
        super().__init__()
        self.register_buffer("delta", delta)
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))
        self.register_buffer("ordinary", None if ordinary is None else torch.tensor(ordinary, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HookWeight:
        """Follow the model to another device, but never to another dtype."""
        for name, tensor in self._buffers.items():
            if tensor is not None:
                self._buffers[name] = tensor.to(fn(tensor).device)
        return self


def score_norms(norms: Tensor, real: Tensor, ends: Tensor | None = None, *, others: bool = False) -> Tensor:
    """Standardise ‖O - P‖ over each row's real tokens (equation 6).

    Up to its prompt's end, a token is judged against the whole prompt. A token behind it is judged
    against the prompt and itself, whatever else has been said in between: so a decision depends neither
    on the cache nor on beams, and the score of a prompt's own tokens not on the answer.

    Args:
        norms: ‖O - P‖ of each token, shape ``(rows, tokens)``.
        real: which of them are tokens, not padding; same shape.
        ends: column of each prompt's last token, shape ``(rows,)``, -1 where a row is all prompt; None if
            all rows are.
        others: leave the token itself out of the mean and standard deviation that it is judged by.

    Returns:
        The z-scores, same shape, float64, with the unbiased standard deviation; NaN where there is none.
    """
    prompt = real if ends is None else _prompt_of(real, ends)
    return _standardise(norms, _moments(norms, prompt), prompt, others)


def _prompt_of(real: Tensor, ends: Tensor) -> Tensor:
    """Return which tokens are of the prompt; a row whose prompt's end isn't known (-1) is all prompt."""
    columns = torch.arange(real.shape[1], device=real.device)
    return real & ((columns <= ends.unsqueeze(1)) | (ends < 0).unsqueeze(1))


def _moments(norms: Tensor, prompt: Tensor) -> Tensor:
    """Return count, mean and sum of squared deviations of each row's prompt, shape ``(rows, 3)``, float64."""
    norms = norms.double()
    count = prompt.sum(dim=1).to(norms.dtype)
    mean = torch.where(prompt, norms, 0).sum(dim=1) / count
    spread = torch.where(prompt, (norms - mean.unsqueeze(1)).square(), 0).sum(dim=1)
    return torch.stack([count, mean, spread], dim=1)


def _standardise(norms: Tensor, moments: Tensor, prompt: Tensor, others: bool) -> Tensor:
    """Score tokens against their row's prompt; those outside it against the prompt and, unless others, themselves."""
    count, mean, spread = (column.unsqueeze(1) for column in moments.unbind(dim=1))
    off = norms.double() - mean
    if others:
        # Taking one value out of n moves the mean by off/(n-1), and takes off² n/(n-1) from the squared deviations.
        rest = (spread - off.square() * count / (count - 1)).clamp_min(0)
        inside = off * count / (count - 1) / (rest / (count - 2)).sqrt()
        behind = off / (spread / (count - 1)).sqrt()
    else:
        inside = off / (spread / (count - 1)).sqrt()
        # Adding one value to n moves the mean by off/(n+1), and adds off² n/(n+1) to the squared deviations.
        behind = off * count / (count + 1) / ((spread + off.square() * count / (count + 1)) / count).sqrt()
    return torch.where(prompt, inside, behind)


class HookLayer:
    """Applies a hook weight to a projection.

    Args:
        model: the model that the projection belongs to.
        module: the projection, ``(batch, tokens, inputs)`` to ``(batch, tokens, outputs)``.
        slack: how far below α a z-score may be by rounding, in the dtype that α was found in: :func:`slack_of`.
        others: whether a token is left out of the mean and standard deviation that it is judged by.
    """

    def __init__(self, model: nn.Module, module: nn.Module, slack: float, *, others: bool = False) -> None:
        self.module, self.slack, self.others = module, slack, others
        self.weight: HookWeight | None = None
        self.mode = Mode.OFF
        self._record_scores: Callable[[Tensor], None] | None = None
        self._record: Callable[[Tensor, Tensor], None] | None = None
        self._attachment = Attachment(model, module, CHILD, self._after_module, whole_prompts=True)

    def set(self, delta: Tensor | None, alpha: float, mode: Mode, ordinary: float | None = None) -> None:
        """Give the layer a hook weight (None for none), what it is judged by, and what to do with it."""
        self.weight = None if delta is None else HookWeight(delta, alpha, ordinary)
        self.mode = mode
        self._attachment.keep(self.weight)

    def lower(self, alpha: float) -> None:
        """Have the layer act from this z-score on."""
        assert self.weight is not None
        self.weight.alpha.fill_(alpha)

    @contextlib.contextmanager
    def in_mode(self, mode: Mode) -> Iterator[None]:
        """Do something else with the hook weight inside."""
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    @contextlib.contextmanager
    def recording_scores(self, record: Callable[[Tensor], None]) -> Iterator[None]:
        """Call ``record`` with the scores of the passes inside, ``(rows, tokens)``, before they are decided on."""
        self._record_scores = record
        try:
            yield
        finally:
            self._record_scores = None

    @contextlib.contextmanager
    def recording_decisions(self, record: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
        """Call ``record`` with the scores of the passes inside and where the hook acts, both ``(rows, tokens)``."""
        self._record = record
        try:
            yield
        finally:
            self._record = None

    def detach(self) -> None:
        """Leave the model as it was before the layer came; at the second call, do nothing."""
        self.weight, self.mode = None, Mode.OFF
        self._attachment.detach()

    def threshold(self, dtype: torch.dtype) -> Tensor:
        """Return the score from which on the hook acts in a model of this dtype: α, less what rounding may take."""
        assert self.weight is not None
        alpha = self.weight.alpha
        return alpha - max(self.slack, slack_of(dtype)) * alpha.abs().clamp_min(1)

    def change(self, keys: Tensor) -> Tensor:
        """Return O - P = ΔW k for keys of shape ``(..., inputs)``, in ΔW's dtype or the keys' if wider."""
        assert self.weight is not None
        dtype = torch.promote_types(keys.dtype, self.weight.delta.dtype)
        return keys.to(dtype) @ self.weight.delta.to(dtype).t()

    def weighed(self, scores: Tensor, norms: Tensor) -> Tensor:
        """Return what is compared with α: the z-scores, or √(z · ‖O - P‖ / its root mean square over text).

        A z-score tells how a token stands out in its prompt, and in a prompt where no token's change is large
        one may stand out by nothing. Its change's size tells that apart, but grows with what else is in ΔW.

        Args:
            scores: z-scores.
            norms: ‖O - P‖ of the same tokens.
        """
        if self.weight is None or self.weight.ordinary is None:
            return scores
        return (scores.clamp_min(0) * norms.double() / self.weight.ordinary).sqrt()

    def _after_module(self, args: tuple[Any, ...], _: dict[str, Any], output: Tensor) -> Tensor | None:
        if self.weight is None or self.mode is Mode.OFF:
            return None
        if self.mode is Mode.TEMPORARY:
            return output + self.change(args[0]).to(output.dtype)
        window = self._attachment.window
        if window is None:
            return None
        change = self.change(args[0])
        norms = change.norm(dim=-1)
        scores = self.weighed(self._score(norms, window), norms)
        if self._record_scores is not None:
            self._record_scores(scores)
        in_scope = scores >= self.threshold(output.dtype)
        if self._record is not None:
            self._record(scores, in_scope)
        if not in_scope.any():
            return None
        return torch.where(in_scope.unsqueeze(-1), output + change.to(output.dtype), output)

    def _score(self, norms: Tensor, window: Window) -> Tensor:
        """Return the z-scores of the pass under way; NaN for padding, and where there are none."""
        real, ends = window.real.to(norms.device), window.ends.to(norms.device)
        memory = window.generation.decisions if window.generation is not None else None
        if window.past == 0:
            if memory is not None and (ends < 0).any():
                raise EditError(_IN_PARTS)
            prompt = _prompt_of(real, ends)
            moments = _moments(norms, prompt)
            if memory is not None:
                memory[id(self)] = moments
        elif (ends >= 0).any():
            raise EditError(_IN_PARTS)
        elif memory is None or id(self) not in memory:
            # Behind a cache that somebody keeps: the prompt's norms aren't known, and nothing is in scope.
            return torch.full_like(norms, float("nan"))
        else:
            prompt = torch.zeros_like(real)
            moments = memory[id(self)].to(norms.device)
            moments = moments.repeat_interleave(len(norms) // len(moments), dim=0)
        return torch.where(real, _standardise(norms, moments, prompt, self.others), float("nan"))


def slack_of(dtype: torch.dtype) -> float:
    """Return how far a z-score moves, relative to it, as batch and padding change, for a model of this dtype."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 2e-2)
