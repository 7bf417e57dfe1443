"""What a search tries for every MEMIT-like method: target vectors, the weight of second moments, and null spaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.search_space import SearchStage, multiples
from easyedit_lifelong.methods.shared.second_moments import named_moments


def target_stages() -> list[SearchStage]:
    """Return the stages of what limits a target vector: the size of its steps, and its largest change."""
    return [
        multiples("steps of target vectors", "v_lr", (0.1, 0.3, 3)),
        multiples("largest change", "clamp_norm_factor", (0.25, 4)),
    ]


def moment_weight_stages() -> list[SearchStage]:
    """Return the stages of λ, the weight of the keys of ordinary text: powers of ten, then values between them."""
    name, field = "weight of second moments", "mom2_update_weight"
    return [multiples(name, field, (0.01, 0.1, 10)), multiples(f"{name}, nearby", field, (0.3, 3))]


def null_space_stages() -> list[SearchStage]:
    """Return the stages of the null space: how large it is, and the penalty on the norm of the update."""
    size = [multiples("null space", name, (0.1, 0.3, 3)) for name in ("nullspace_energy", "nullspace_threshold")]

    def candidates(hparams: Any, model: Any) -> list[dict[str, Any]]:
        by_energy = getattr(hparams, "nullspace_energy", None) is not None
        values = size[0 if by_energy else 1].candidates(hparams, model)
        return [value for value in values if value.get("nullspace_energy", 0) < 1]

    return [
        SearchStage("null space", ("nullspace_energy", "nullspace_threshold"), candidates),
        multiples("penalty on the update", "L2", (0.1, 10)),
    ]


def prepare_moments(
    model: Any,
    tok: Any,
    candidates: Sequence[LocateEditHyperParams],
    progress: Callable[[int, int], None],
) -> None:
    """Read or collect the second moments of all layers that some candidates need, in one pass.

    Args:
        model: the model.
        tok: its tokenizer.
        candidates: hyperparameters that differ neither in the corpus nor in its size.
        progress: called with the number of tokens or documents that are done, and their total.

    Raises:
        CovarianceError: a stored file cannot be used, or the corpus is not available.
    """
    paths = {path: None for hparams in candidates if hparams.mom2_adjustment for path in hparams.moment_paths}
    if paths:
        named_moments(model, tok, list(paths), candidates[0], progress)
