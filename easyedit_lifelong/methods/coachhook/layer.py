"""The hook layer: a forward hook on one projection, which decides for each token whether it is in scope.

The projection does not change. Its original weight is W_0, and the hook weight is W_h = W_0 + ΔW. A hook layer holds
ΔW as a child module of the projection, so that it is saved and moved with the model. Where a token is in scope, it adds
ΔW k to the output of the projection: P = W_0 k becomes O = W_h k (arXiv 2403.05330, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.coachhook.hook import Hook, Mode
from easyedit_lifelong.models.attachment import EditBuffers
from easyedit_lifelong.models.windows import Window, reads_prompts


class HookWeight(EditBuffers):
    """ΔW and α of one hook layer.

    Args:
        delta: ΔW, shape ``(outputs, inputs)``.
        alpha: the hook weight is used at tokens whose score is at least this.
        ordinary: the root mean square of ‖ΔW k‖ over ordinary text; None if scores are not weighed by it. Saved
            checkpoints use this name.
    """

    delta: Tensor
    alpha: Tensor
    ordinary: Tensor | None

    def __init__(self, delta: Tensor, alpha: float, ordinary: float | None = None) -> None:
        super().__init__()
        self.register_buffer("delta", delta)
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))
        self.register_buffer("ordinary", None if ordinary is None else torch.tensor(ordinary, dtype=torch.float64))


def z_scores_of_norms(
    norms: Tensor, real: Tensor, ends: Tensor | None = None, *, leave_one_out: bool = False
) -> Tensor:
    """Return z-scores: standardise ‖O - P‖ of each token over the tokens of its prompt (equation 6).

    A prompt token is compared with all tokens of the prompt. A token after the prompt is compared with the prompt and
    itself, and not with the other tokens after the prompt. So a decision does not depend on the cache or on beams, and
    the scores of prompt tokens do not depend on the answer.

    Args:
        norms: ‖O - P‖ of each token, shape ``(rows, tokens)``.
        real: which positions are tokens rather than padding, same shape.
        ends: the prompt end of each row, shape ``(rows,)``; -1 in a row without tokens after the prompt. None: no row
            has any.
        leave_one_out: exclude each token from the mean and standard deviation that it is compared with.

    Returns:
        The z-scores, same shape, float64, with the unbiased standard deviation; NaN or infinite where the standard
        deviation is undefined or 0.
    """
    prompt = real if ends is None else _prompt_mask(real, ends)
    return _standardise(norms, _PromptStatistics.of(norms, prompt), prompt, leave_one_out)


def _prompt_mask(real: Tensor, ends: Tensor) -> Tensor:
    """Return which positions are prompt tokens; all tokens of a row whose prompt end is -1."""
    columns = torch.arange(real.shape[1], device=real.device)
    return real & ((columns <= ends.unsqueeze(1)) | (ends < 0).unsqueeze(1))


@dataclass(frozen=True)
class _PromptStatistics:
    """Statistics of ‖O - P‖ over the prompt tokens of each row; all of shape ``(rows, 1)``, float64.

    Attributes:
        count: the number of prompt tokens.
        mean: the mean of their norms.
        squares: the sum of the squared deviations from the mean.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, norms: Tensor, prompt: Tensor) -> _PromptStatistics:
        """Compute the statistics.

        Args:
            norms: ‖O - P‖ of each token, shape ``(rows, tokens)``.
            prompt: which positions are prompt tokens, same shape.
        """
        norms = norms.double()
        count = prompt.sum(dim=1, keepdim=True).to(norms.dtype)
        mean = torch.where(prompt, norms, 0).sum(dim=1, keepdim=True) / count
        squares = torch.where(prompt, (norms - mean).square(), 0).sum(dim=1, keepdim=True)
        return cls(count, mean, squares)

    def repeated(self, rows: int, device: torch.device) -> _PromptStatistics:
        """Return the statistics on a device, with the row of each prompt repeated for its beams or samples."""
        repeats = rows // len(self.count)
        columns = (self.count, self.mean, self.squares)
        return _PromptStatistics(*(column.to(device).repeat_interleave(repeats, dim=0) for column in columns))


def _standardise(norms: Tensor, statistics: _PromptStatistics, prompt: Tensor, leave_one_out: bool) -> Tensor:
    """Return the z-scores of tokens, shape ``(rows, tokens)``; see :func:`z_scores_of_norms`.

    Args:
        norms: ‖O - P‖ of each token, shape ``(rows, tokens)``.
        statistics: the statistics of each row's prompt.
        prompt: which positions are prompt tokens, shape ``(rows, tokens)``.
        leave_one_out: see :func:`z_scores_of_norms`.
    """
    count, mean, squares = statistics.count, statistics.mean, statistics.squares
    deviation = norms.double() - mean
    if leave_one_out:
        # Removing one of n values moves the mean by deviation/(n-1), and reduces the sum of squared deviations by
        # deviation² n/(n-1).
        squares_of_others = (squares - deviation.square() * count / (count - 1)).clamp_min(0)
        in_prompt = deviation * count / (count - 1) / (squares_of_others / (count - 2)).sqrt()
        after_prompt = deviation / (squares / (count - 1)).sqrt()
    else:
        in_prompt = deviation / (squares / (count - 1)).sqrt()
        # Adding one value to n values moves the mean by deviation/(n+1), and increases the sum of squared deviations by
        # deviation² n/(n+1).
        squares_with_token = squares + deviation.square() * count / (count + 1)
        after_prompt = deviation * count / (count + 1) / (squares_with_token / count).sqrt()
    return torch.where(prompt, in_prompt, after_prompt)


class HookLayer(Hook):
    """Replaces the output of a projection by that of the hook weight, at tokens in scope.

    Args:
        model: the model.
        module: the projection, ``(batch, tokens, inputs)`` to ``(batch, tokens, outputs)``.
        tolerance: the rounding error of scores, relative to α, in the dtype that the model has now. The model can be
            cast later, but α was computed in this dtype. From :func:`score_tolerance`.
        leave_one_out: exclude each token from the mean and standard deviation that it is compared with.

    Attributes:
        weight: ΔW and α; None: no edits.
    """

    def __init__(self, model: nn.Module, module: nn.Module, tolerance: float, *, leave_one_out: bool = False) -> None:
        super().__init__(model, module)
        self.tolerance, self.leave_one_out = tolerance, leave_one_out
        self.weight: HookWeight | None = None

    def set_weight(self, delta: Tensor | None, alpha: float, mode: Mode, rms_change: float | None = None) -> None:
        """Set the hook weight and the mode.

        Args:
            delta: ΔW, shape ``(outputs, inputs)``; None: remove the hook weight.
            alpha: α.
            mode: the output of the layer.
            rms_change: the root mean square of ‖ΔW k‖ over ordinary text, if scores are weighed by it.
        """
        self.weight = None if delta is None else HookWeight(delta, alpha, rms_change)
        self.mode = mode
        self._attachment.set_child(self.weight)

    def set_alpha(self, alpha: float) -> None:
        """Set α of the present hook weight."""
        assert self.weight is not None
        self.weight.alpha.fill_(alpha)

    def detach(self) -> None:
        """Remove the hook layer from the model. A second call does nothing."""
        self.weight = None
        super().detach()

    def threshold(self, dtype: torch.dtype) -> Tensor:
        """Return the lowest score that is in scope in a model of this dtype: α minus the rounding error."""
        assert self.weight is not None
        alpha = self.weight.alpha
        return alpha - max(self.tolerance, score_tolerance(dtype)) * alpha.abs().clamp_min(1)

    def output_change(self, keys: Tensor) -> Tensor:
        """Return O - P = ΔW k, in the wider dtype of k and ΔW.

        Args:
            keys: k, shape ``(..., inputs)``.

        Returns:
            ΔW k, shape ``(..., outputs)``.
        """
        assert self.weight is not None
        dtype = torch.promote_types(keys.dtype, self.weight.delta.dtype)
        return keys.to(dtype) @ self.weight.delta.to(dtype).t()

    def weigh(self, z: Tensor, norms: Tensor) -> Tensor:
        """Return the scores that are compared with α: √(z · ‖O - P‖ / RMS), or z if scores are not weighed.

        RMS is the root mean square of ‖O - P‖ over ordinary text. A z-score compares a token only with its prompt, so
        it can be high although the change ‖O - P‖ is small. The change alone is no better score, since it grows with
        the number of edits. The geometric mean is high only if both are high.

        Args:
            z: z-scores.
            norms: ‖O - P‖ of the same tokens, same shape.
        """
        if self.weight is None or self.weight.ordinary is None:
            return z
        return (z.clamp_min(0) * norms.double() / self.weight.ordinary).sqrt()

    def _after_module(self, args: tuple[Any, ...], _: dict[str, Any], output: Tensor) -> Tensor | None:
        """Return the output of the hook layer for a pass; None to keep the output of the projection."""
        if self.weight is None or self.mode is Mode.OFF:
            return None
        if self.mode is Mode.TEMPORARY:
            return output + self.output_change(args[0]).to(output.dtype)
        window = self._attachment.window
        if window is None:
            return None
        change = self.output_change(args[0])
        norms = change.norm(dim=-1)
        scores = self.weigh(self._z_scores(norms, window), norms)
        if self._score_recorder is not None:
            self._score_recorder(scores)
        in_scope = scores >= self.threshold(output.dtype)
        if self._decision_recorder is not None:
            self._decision_recorder(scores, in_scope)
        if not in_scope.any():
            return None
        return torch.where(in_scope.unsqueeze(-1), output + change.to(output.dtype), output)

    def _z_scores(self, norms: Tensor, window: Window) -> Tensor:
        """Return the z-scores of the present pass; NaN at padding and where the prompt is not known.

        The statistics of the prompt are stored for later passes of the same call of ``generate``.

        Raises:
            EditError: the pass has a part of a prompt.
        """
        real, ends = window.real.to(norms.device), window.ends.to(norms.device)
        generation = window.generation
        if reads_prompts(window, "CoachHook's edits"):
            prompt = _prompt_mask(real, ends)
            statistics = _PromptStatistics.of(norms, prompt)
            if generation is not None:
                generation.decisions[id(self)] = statistics
        elif generation is None or id(self) not in generation.decisions:
            # The caller passed a cache. The norms of its tokens are not known, so no token is in scope.
            return torch.full_like(norms, float("nan"))
        else:  # all tokens of this pass are after the prompt
            prompt = torch.zeros_like(real)
            statistics = generation.decisions[id(self)].repeated(len(norms), norms.device)
        return torch.where(real, _standardise(norms, statistics, prompt, self.leave_one_out), float("nan"))


def score_tolerance(dtype: torch.dtype) -> float:
    """Return how much a score can vary by rounding, relative to α, when batch and padding vary.

    Args:
        dtype: the dtype of the model.
    """
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 2e-2)
