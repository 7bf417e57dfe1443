"""Which keys the paraphrases and locality prompts of a calibration match, by radius."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.calibration.study_texts import StudyTexts
from easyedit_lifelong.methods.shared.subject_keys.distance import normalized, rounded_pairwise_distances

_INSIDE = 1 - 1e-4
"""Factor between a common radius and the distance of the nearest token that must not match. It allows for rounding."""


class KeyMatching:
    """Distances from paraphrases and locality prompts to their nearest keys.

    Args:
        keys: shape ``(records, key vectors, width)``.
        dist_fn: ``euc`` or ``cos``.
        paraphrases: the queries of the paraphrases, ``(paraphrases, width)``.
        locality: for each locality prompt, the queries of all its tokens, ``(tokens, width)``.
        texts: the texts that these activations belong to.

    Attributes:
        right: see :class:`.KeyLayerResult`.
    """

    def __init__(
        self, keys: Tensor, dist_fn: str, paraphrases: Tensor, locality: Sequence[Tensor], texts: StudyTexts
    ) -> None:
        self._dist_fn, (self._n_keys, self._vectors_per_key) = dist_fn, keys.shape[:2]
        self._key_vectors = normalized(keys.flatten(0, 1), dist_fn)
        distances = self._key_distances(paraphrases)
        self._distance, self._nearest = distances.min(dim=1)
        records = torch.tensor(texts.paraphrase_records)
        self._is_right = texts.same_subject[records, self._nearest]
        self.right = float(self._is_right.float().mean())
        self._distance_to_own = distances.gather(1, records.unsqueeze(1)).flatten()
        # A locality prompt may name an edited subject. A match with that subject's key is no false fire.
        self._nearest_of_tokens = [
            self._key_distances(queries).masked_fill(~absent, float("inf")).min(dim=1)
            for queries, absent in zip(locality, texts.subject_absent, strict=True)
        ]

    def _key_distances(self, queries: Tensor) -> Tensor:
        """Return the distance from each query to each key, ``(queries, records)``."""
        prepared = normalized(queries, self._dist_fn)
        distances = rounded_pairwise_distances(prepared, self._key_vectors, self._dist_fn)
        return distances.view(len(queries), self._n_keys, self._vectors_per_key).amin(dim=2)

    def common_radius(self, rate: float) -> float:
        """Return the widest common radius at which at most this share of the locality prompts fires."""
        firing_radii = torch.stack([nearest.values.amin() for nearest in self._nearest_of_tokens]).sort().values
        permitted = int(rate * len(firing_radii) + 1e-9)  # number of prompts; with tolerance for rounding
        limit = firing_radii[min(permitted, len(firing_radii) - 1)]
        return float(limit) * _INSIDE if torch.isfinite(limit) else float(self._distance.max())

    def shares_at(self, radii: Tensor) -> tuple[float, float]:
        """Return the share of paraphrases found and the share of locality prompts that fire.

        Args:
            radii: each key's radius, ``(records,)``.
        """
        found = self._is_right & (self._distance <= radii[self._nearest])
        fires = [bool((nearest.values <= radii[nearest.indices]).any()) for nearest in self._nearest_of_tokens]
        return float(found.float().mean()), sum(fires) / len(fires)

    def radius_of_mentions(self, share: float) -> float:
        """Return the radius in which a share of the paraphrases matches a key of the record that they rephrase."""
        return float(self._distance_to_own.quantile(share))
