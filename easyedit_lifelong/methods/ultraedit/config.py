"""The hyperparameters of UltraEdit, with the names of EasyEdit's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.methods.weight_updates.config import NamedProjectionsHyperParams


@dataclass(kw_only=True)
class UltraEditHyperParams(NamedProjectionsHyperParams):
    """Hyperparameters of UltraEdit (arXiv 2505.14679).

    Attributes:
        inner_params: paths of the edited projections. Those of the same shape share a normaliser.
        lr: η, the size of an update.
        batch_size_once: largest number of requests in one forward and backward pass. It bounds the memory and does not
            change the result.
        token: the tokens whose inputs and gradients are used; must be ``ans``, the tokens that predict the answer.
        editor_batch_size: read from EasyEdit's files; not used.
        dropout: read from EasyEdit's files; not used.
        no_grad_layers: read from EasyEdit's files; not used.
        half: read from EasyEdit's files; not used: ``dtype`` is the data type of the weights.
        model_class: read from EasyEdit's files; not used.
        class_name: read from EasyEdit's files; not used.
        tokenizer_class: read from EasyEdit's files; not used.
        tokenizer_name: read from EasyEdit's files; not used.
        silent: read from EasyEdit's files; not used.
        results_dir: read from EasyEdit's files; not used.
    """

    ALG_NAME: ClassVar[str] = "UltraEdit"
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {"token": ("ans",)}
    AT_LEAST: ClassVar[Mapping[str, float]] = {**NamedProjectionsHyperParams.AT_LEAST, "batch_size_once": 1}
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("lr",)
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params",)

    lr: float = 1e-6
    batch_size_once: int = 10
    token: str = "ans"
    editor_batch_size: int = 128
    dropout: float = 0.0
    no_grad_layers: Any = None
    half: bool = False
    model_class: str | None = None
    class_name: str | None = None
    tokenizer_class: str | None = None
    tokenizer_name: str | None = None
    silent: bool = False
    results_dir: str | None = None
