"""The scope of ``scope_score: codebook``: which tokens of a pass are near the keys of which edited subjects.

One layer decides for all hook layers: the scope layer. No edited projection comes before it. So a token's key there
does not depend on the edits, and a decision does not change when later edits are made. It depends on the token and
those before it alone, so neither padding, nor other rows, nor the KV cache can change it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized, pairwise_distances, rounding_of
from easyedit_lifelong.methods.shared.subject_keys.key_search import Search
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitened
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.attachment import Attachment, EditBuffers
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.windows import Window

_CHILD_NAME = "coachhook_scope"
"""Name of the child module that holds the keys."""

MAX_SCORE = 1e3
"""The score of a token that equals a key."""


@dataclass(frozen=True)
class SubjectKeys:
    """The keys of the subjects of n edits.

    Attributes:
        vectors: the whitened key vectors of each edit, of unit length, one below the other: shape
            ``(key vectors * width, n)``, float32.
        radii: the radius of each key, in cosine distance, shape ``(1, n)``, float32.
        whitening: the matrix that queries are whitened with, shape ``(width, rank)``; see :func:`.whitening_of`.
    """

    vectors: Tensor
    radii: Tensor
    whitening: Tensor

    @classmethod
    def joined(cls, parts: Sequence[SubjectKeys]) -> SubjectKeys | None:
        """Return the keys of consecutive batches as one, with the whitening of the first; None without batches."""
        if not parts:
            return None
        vectors = torch.cat([part.vectors for part in parts], dim=1)
        return cls(vectors, torch.cat([part.radii for part in parts], dim=1), parts[0].whitening)


class _KeyBuffers(EditBuffers):
    """The keys of all edits, as buffers of the scope layer.

    Args:
        keys: the keys.
    """

    vectors: Tensor
    radii: Tensor
    whitening: Tensor

    def __init__(self, keys: SubjectKeys) -> None:
        super().__init__()
        width, (rows, edits) = len(keys.whitening), keys.vectors.shape
        self.vectors_per_key = rows // width
        self.register_buffer("vectors", keys.vectors.t().reshape(edits * self.vectors_per_key, width).contiguous())
        self.register_buffer("radii", keys.radii.flatten())
        self.register_buffer("whitening", keys.whitening)


@dataclass(frozen=True)
class Decision:
    """The decision about the tokens of one pass.

    Attributes:
        in_scope: which tokens are near some key, shape ``(rows, tokens)``.
        matches: for each of these tokens, in order, whose keys it is near, shape ``(tokens in scope, edits)``.
        queries: the whitened inputs of the scope layer, shape ``(rows, tokens, width)``.
        slack: how much farther than its radius a key acts, for the rounding of the model's dtype.
    """

    in_scope: Tensor
    matches: Tensor
    queries: Tensor
    slack: float


class SubjectScope:
    """Decides at one layer which tokens are near the keys of which edits.

    Args:
        model: the model.
        layer: the scope layer, a linear projection ``(rows, tokens, width)`` to ``(rows, tokens, outputs)``.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.layer = layer
        self._keys: _KeyBuffers | None = None
        self._search = Search(COS)
        self._suspended = False
        self._record: Callable[[Decision], None] | None = None
        self._attachment = Attachment(model, layer, _CHILD_NAME, self._after_layer, spanning=True)

    def set_keys(self, keys: SubjectKeys | None) -> None:
        """Set the keys of all edits, in order; None: there are no edits."""
        device = next(self.layer.parameters()).device
        self._keys = None if keys is None else _KeyBuffers(keys).to(device)
        self._attachment.set_child(self._keys)
        self._search.reset()

    def detach(self) -> None:
        """Remove the scope from the model. A second call does nothing."""
        self._keys = None
        self._attachment.detach()

    def suspended(self) -> contextlib.AbstractContextManager[None]:
        """Make no decisions within the context."""
        return overridden("_suspended", {self: True})

    def recording_decisions(self, record: Callable[[Decision], None]) -> contextlib.AbstractContextManager[None]:
        """Call ``record`` with the decision about each pass within the context."""
        return overridden("_record", {self: record})

    def decision(self, window: Window | None) -> Decision | None:
        """Return the decision about the running pass; None if there is none.

        Raises:
            EditError: the pass has skipped the scope layer.
        """
        if window is None or self._keys is None or self._suspended:
            return None
        if id(self) not in window.notes:
            raise EditError(
                "a pass skips the layer at which CoachHook's edits find subjects (scope_layer), so they can't act in "
                "it. Run the whole model."
            )
        decision: Decision = window.notes[id(self)]
        return decision

    def scores(self, decision: Decision) -> Tensor:
        """Return how near each token is to a key: the largest ratio of radius and distance, at most ``MAX_SCORE``.

        A token is in scope if its score is at least 1.

        Args:
            decision: the decision about a pass.

        Returns:
            Shape ``(rows, tokens)``.
        """
        assert self._keys is not None
        rows, tokens, width = decision.queries.shape
        distances = self._distances(decision.queries.view(-1, width))
        radii = self._keys.radii.clamp_min(1e-12)  # a radius can be 0: then only the key itself is in scope
        ratios = radii / (distances - decision.slack).clamp_min(radii / MAX_SCORE)
        return ratios.amax(dim=1).view(rows, tokens)

    def _after_layer(self, args: tuple[Any, ...], _: dict[str, Any], __: Tensor) -> None:
        """Store the decision about a pass with the pass, for the hook layers."""
        window = self._attachment.window
        if window is not None and self._keys is not None and not self._suspended:
            window.notes[id(self)] = decision = self._decide(args[0], window)
            if self._record is not None:
                self._record(decision)

    @torch.no_grad()
    def _decide(self, inputs: Tensor, window: Window) -> Decision:
        """Return the decision about a pass.

        Args:
            inputs: the inputs of the scope layer, shape ``(rows, tokens, width)``.
            window: the pass.
        """
        keys = self._keys
        assert keys is not None
        queries = normalized(whitened(inputs.flatten(0, 1), keys.whitening), COS)
        slack = rounding_of(inputs.dtype)
        radii = keys.radii.repeat_interleave(keys.vectors_per_key)
        near = self._search.within_any_radius(queries, keys.vectors, radii, queries.new_full((len(queries),), slack))
        near &= window.real.to(near.device).flatten()
        matches = self._distances(queries[near]) <= keys.radii + slack
        return Decision(near.view(inputs.shape[:2]), matches, queries.view(inputs.shape), slack)

    def _distances(self, queries: Tensor) -> Tensor:
        """Return the distance of each query to the key of each edit, shape ``(queries, edits)``.

        Args:
            queries: shape ``(queries, width)``.
        """
        assert self._keys is not None
        distances = pairwise_distances(queries, self._keys.vectors, COS)
        return distances.view(len(queries), len(self._keys.radii), self._keys.vectors_per_key).amin(dim=2)


def check_comes_first(model: nn.Module, path: str, layer: nn.Module, first_edited: nn.Module) -> None:
    """Check that no edited projection comes before the scope layer, so that edits can't change keys.

    Args:
        model: the model.
        path: the path of the scope layer.
        layer: the scope layer.
        first_edited: the first edited projection.

    Raises:
        ModelError: the scope layer comes after it, or is not a linear projection.
    """
    modules = list(model.modules())
    if modules.index(layer) > modules.index(first_edited):
        raise ModelError(
            f"scope_layer: {path} comes after the first edited projection, so edits would change the keys by which "
            "they are found. Name a projection of an earlier block."
        )
    try:
        projection_shape(layer)
    except TypeError as error:
        raise ModelError(f"scope_layer: {path}: {error}") from error
