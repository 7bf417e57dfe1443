"""The hyperparameters of the fine-tuning methods: one class of settings, and a preset for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.methods.weight_updates.config import BlockUpdateHyperParams


@dataclass(kw_only=True)
class FineTuneHyperParams(BlockUpdateHyperParams):
    """Hyperparameters of the fine-tuning methods, which differ only in their defaults.

    Files of EasyEdit's FT load once their ``alg_name`` is that of a method of this package.

    Attributes:
        order: ``depth-first``: train on each request of a batch until it stops, then on the next one;
            ``breadth-first``: in each epoch, train on all requests of the batch.
        num_steps: largest number of epochs: passes over the request (depth-first) or the batch (breadth-first).
        lr: learning rate of Adam, whose state is new for each request (depth-first) or batch (breadth-first).
        weight_decay: L2 penalty in Adam's gradient.
        examples_per_step: largest number of requests in one optimiser step.
        shuffle: shuffle the requests in each epoch (breadth-first).
        with_history: train on the requests of earlier batches, too (breadth-first only).
        stop_when_correct: make no step when the model predicts every target token of the requests of that step, and
            stop when it does for all requests.
        stop_loss: make no step when the loss of its requests is below this, and stop when the mean over an epoch is.
        norm_constraint: largest change of the weight W, enforced after every step; None: no limit.
        norm: what the limit is for: ``linf``, the change of each number in W, or ``l2``, the Frobenius norm.
        norm_center: what changes are measured from: the weight before this ``batch``, or the ``base`` model's.
        kl_factor: weight of KL(trained ‖ before the batch) of the predictions within the prompt.
        ewc_lambda: λ, the weight of the EWC penalty Σ F (θ - θ*)².
        fisher_mem: number of latest edits that F is estimated from.
        retrain_frequency: train on earlier edits before every edit whose number is a multiple of this; None: never.
        retrain_memory: number of latest edits to train on then; None: all.
        retrain_epochs: number of passes over these edits, with one edit in each step.
        layer_module_tmp: read from EasyEdit's files; not used.
        mlp_module_tmp: read from EasyEdit's files; not used.
        attn_module_tmp: read from EasyEdit's files; not used.
        ln_f_module: read from EasyEdit's files; not used.
        lm_head_module: read from EasyEdit's files; not used.
        objective_optimization: read from EasyEdit's files; must be ``target_new``.
    """

    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "order": ("depth-first", "breadth-first"),
        "norm": ("linf", "l2"),
        "norm_center": ("batch", "base"),
        "objective_optimization": ("target_new",),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **BlockUpdateHyperParams.AT_LEAST,
        "num_steps": 1,
        "weight_decay": 0,
        "examples_per_step": 1,
        "stop_loss": 0,
        "kl_factor": 0,
        "ewc_lambda": 0,
        "fisher_mem": 1,
        "retrain_frequency": 1,
        "retrain_memory": 1,
        "retrain_epochs": 1,
    }
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("lr", "norm_constraint")
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ("layers", "rewrite_module_tmp", "eos", "seed")

    order: str = "depth-first"
    num_steps: int = 100
    lr: float = 1e-2
    weight_decay: float = 0.0
    examples_per_step: int = 100
    shuffle: bool = False
    with_history: bool = False
    stop_when_correct: bool = True
    stop_loss: float = 0.0
    norm_constraint: float | None = None
    norm: str = "linf"
    norm_center: str = "batch"
    kl_factor: float = 0.0
    ewc_lambda: float = 0.0
    fisher_mem: int = 10
    retrain_frequency: int | None = None
    retrain_memory: int | None = None
    retrain_epochs: int = 5
    layer_module_tmp: str = ""
    mlp_module_tmp: str = ""
    attn_module_tmp: str = ""
    ln_f_module: str = ""
    lm_head_module: str = ""
    objective_optimization: str = "target_new"

    @property
    def replays_history(self) -> bool:
        """Whether a batch is trained together with the requests of all earlier batches."""
        return self.with_history and self.order == "breadth-first"

    def __post_init__(self) -> None:
        """Convert and check the values. EasyEdit's ``norm_constraint: false`` means that there is no limit."""
        if self.norm_constraint is False:
            self.norm_constraint = None
        super().__post_init__()


@dataclass(kw_only=True)
class FTHyperParams(FineTuneHyperParams):
    """Hyperparameters of FT, the baseline of GRACE (arXiv 2211.11031); see :class:`FineTuneHyperParams`.

    ``alg_name: FT`` selects EasyEdit's FT, and ``alg_name: FT-native`` selects this one.
    """

    ALG_NAME: ClassVar[str] = "FT-native"


@dataclass(kw_only=True)
class FTLHyperParams(FineTuneHyperParams):
    """Hyperparameters of FT-L (Zhu et al., arXiv 2012.00363); see :class:`FineTuneHyperParams`."""

    ALG_NAME: ClassVar[str] = "FT-L"

    order: str = "breadth-first"
    num_steps: int = 25
    lr: float = 5e-4
    stop_when_correct: bool = False
    stop_loss: float = 1e-2
    norm_constraint: float | None = 5e-4


@dataclass(kw_only=True)
class FTEWCHyperParams(FineTuneHyperParams):
    """Hyperparameters of FT+EWC, a baseline of GRACE (arXiv 2211.11031); see :class:`FineTuneHyperParams`."""

    ALG_NAME: ClassVar[str] = "FT-EWC"

    ewc_lambda: float = 0.1


@dataclass(kw_only=True)
class FTRetrainHyperParams(FineTuneHyperParams):
    """Hyperparameters of FT+Retrain, a baseline of GRACE (arXiv 2211.11031); see :class:`FineTuneHyperParams`."""

    ALG_NAME: ClassVar[str] = "FT-Retrain"

    retrain_frequency: int | None = 50


@dataclass(kw_only=True)
class LocFTBFHyperParams(FineTuneHyperParams):
    """Hyperparameters of LocFT-BF (arXiv 2509.22072); see :class:`FineTuneHyperParams`."""

    ALG_NAME: ClassVar[str] = "LocFT-BF"

    order: str = "breadth-first"
    num_steps: int = 25
    lr: float = 5e-4
    shuffle: bool = True
    with_history: bool = True
    stop_when_correct: bool = False
    stop_loss: float = 1e-2
    eos: bool = True
