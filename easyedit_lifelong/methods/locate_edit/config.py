"""Hyperparameters that MEMIT-like methods share, with the names that EasyEdit's YAML files give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from easyedit_lifelong.methods.shared.vector_optimisers import ADAM, LBFGS
from easyedit_lifelong.methods.weight_updates.config import BlockUpdateHyperParams, is_list_of
from easyedit_lifelong.models.reduced_products import TRAIN_DTYPES

_MAX_CONTEXTS = 1000
"""Contexts are generated in one batch. MEMIT's files ask for 5, ROME's for 20."""


@dataclass(kw_only=True)
class LocateEditHyperParams(BlockUpdateHyperParams):
    """Hyperparameters that MEMIT-like methods share (arXiv 2210.07229).

    Attributes:
        layers: numbers of the blocks on the critical path, in ascending order. Their MLP output projections are edited.
        num_layers: edit only this many of ``layers``, counted from the last; None: all of them.
        rewrite_module_tmp: path of an edited projection, with ``{}`` for the number of the block.
        layer_module_tmp: path of a block, with ``{}`` for its number. Target vectors are optimised at the output of
            the last edited block.
        mlp_module_tmp: read from EasyEdit's files; not used.
        attn_module_tmp: read from EasyEdit's files; not used.
        ln_f_module: path of the final norm. It is used if ``v_loss_layer`` is not the last block.
        lm_head_module: read from EasyEdit's files; not used: the model itself names its output head.
        layer_selection: read from EasyEdit's files; must be ``all``.
        fact_token: the lookup token of the prompt: ``subject_last``, ``subject_first``, ``subject_first_after_last``,
            or ``last`` (the last token of the prompt).
        v_num_grad_steps: number of loss evaluations per target vector, at most. The last one makes no step.
        optimizer: what optimises the target vectors: ``adam`` as in the papers, or ``lbfgs``, limited-memory BFGS,
            which needs fewer steps.
        v_lr: learning rate of Adam for the target vectors; ``lbfgs`` takes the length of its longest step from it.
        train_dtype: dtype of the matrix products of the blocks while target vectors are optimised, in a model in
            float32: None for the model's own, ``bfloat16``, or ``auto`` for bfloat16 where the processor has
            instructions for it. The losses of the results are exact. It has an effect where partial passes are
            possible.
        v_loss_layer: number of the block from whose output the loss predicts the target; None: the last block.
        v_weight_decay: weight of the penalty ‖δ‖/‖h‖², where δ is the change of the hidden state h.
        v_stop_loss: the optimisation of a target vector stops when its loss is below this.
        clamp_norm_factor: largest ‖δ‖, in units of ‖h‖.
        kl_factor: weight of the KL divergence of the prediction at the lookup token of ``{subject} is a``.
        context_template_length_params: ``[tokens, count]`` pairs: generate ``count`` contexts of ``tokens`` tokens.
        mention_templates: additional contexts for target vectors, which MEMIT does not have: texts with ``{subject}``
            and, after it, ``{prompt}``. The lookup token is that of the earlier mention of the subject. They make
            a target vector work from a distance and in other wordings (generality).
        mom2_adjustment: read from EasyEdit's files; must be true, since the update needs second moments.
        mom2_update_weight: λ in λ E[kkᵀ]: the weight of the keys of ordinary text against the keys of the edits.
        mom2_dataset: the text that the second moments are collected from; see docs/covariance.md.
        mom2_n_samples: number of documents of ``mom2_dataset`` to read.
        mom2_n_tokens: number of tokens of ``mom2_dataset`` to read. If ``mom2_n_samples`` is set, too, a stored file of
            either amount is used.
        mom2_dtype: dtype of the second moments.
        mom2_engine: what collects the second moments: ``native``, or ``easyedit`` for EasyEdit's ``layer_stats``.
        stats_dir: folder of the second moments; None: the cache folder of this package.
    """

    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "fact_token": ("subject_last", "subject_first", "subject_first_after_last", "last"),
        "layer_selection": ("all",),
        "optimizer": (ADAM, LBFGS),
        "train_dtype": TRAIN_DTYPES,
        "mom2_adjustment": (True,),
        "mom2_dtype": ("float32", "float64"),
        "mom2_engine": ("native", "easyedit"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **BlockUpdateHyperParams.AT_LEAST,
        "num_layers": 1,
        "v_num_grad_steps": 1,
        "mom2_n_samples": 1,
        "mom2_n_tokens": 1,
        "v_loss_layer": 0,
        "v_weight_decay": 0,
        "kl_factor": 0,
        "v_stop_loss": 0,
    }
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("v_lr", "clamp_norm_factor", "mom2_update_weight")
    PATH_FIELDS: ClassVar[tuple[str, ...]] = (*BlockUpdateHyperParams.PATH_FIELDS, "layer_module_tmp")
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        "layers",
        "num_layers",
        "rewrite_module_tmp",
        "layer_module_tmp",
        "fact_token",
        "seed",
        "context_template_length_params",
        "mom2_update_weight",
        "mom2_dataset",
        "mom2_n_samples",
        "mom2_n_tokens",
        "mom2_dtype",
    )

    layer_module_tmp: str
    mlp_module_tmp: str = ""
    attn_module_tmp: str = ""
    ln_f_module: str = ""
    lm_head_module: str = ""
    layer_selection: str = "all"
    fact_token: str = "subject_last"
    num_layers: int | None = None
    optimizer: str = ADAM
    train_dtype: str | None = None
    v_num_grad_steps: int = 20
    v_lr: float = 0.5
    v_loss_layer: int | None = None
    v_weight_decay: float = 0.5
    v_stop_loss: float = 0.05
    clamp_norm_factor: float = 0.75
    kl_factor: float = 0.0625
    context_template_length_params: list[list[int]] = field(default_factory=lambda: [[10, 5]])
    mention_templates: list[str] = field(default_factory=list)
    mom2_adjustment: bool = True
    mom2_update_weight: float = 15000.0
    mom2_dataset: str = "wikipedia"
    mom2_n_samples: int | None = 100000
    mom2_n_tokens: int | None = None
    mom2_dtype: str = "float32"
    mom2_engine: str = "native"
    stats_dir: str | None = None

    @property
    def edited_layers(self) -> list[int]:
        """The numbers of the edited blocks, in ascending order."""
        return self.layers if self.num_layers is None else self.layers[-self.num_layers :]

    @property
    def moment_paths(self) -> list[str]:
        """The layers whose second moments the method needs: the edited projections."""
        return self.rewrite_modules

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = []
        if is_list_of(self.layers, int) and isinstance(self.num_layers, int) and self.num_layers > len(self.layers):
            problems.append(f"num_layers: {self.num_layers} is more than the number of layers, {len(self.layers)}")
        problems += [*super().check(), *self._template_problems()]
        if self.mom2_n_samples is None and self.mom2_n_tokens is None:
            problems.append("mom2_n_tokens: give either this or mom2_n_samples")
        return problems

    def _template_problems(self) -> list[str]:
        """Return the problems of context templates and mention templates."""
        problems = []
        lengths = self.context_template_length_params
        has_valid_types = isinstance(lengths, list) and all(is_list_of(pair, int) for pair in lengths)
        if has_valid_types and any(len(pair) != 2 or min(pair) < 1 for pair in lengths):
            problems.append("context_template_length_params: must be [tokens, count] pairs of positive numbers")
        elif has_valid_types and sum(count for _, count in lengths) > _MAX_CONTEXTS:
            problems.append(f"context_template_length_params: asks for more than {_MAX_CONTEXTS} contexts")
        if self.mention_templates and self.fact_token == "last":
            problems.append("mention_templates: need a fact_token of the subject; fact_token is 'last'")
        if is_list_of(self.mention_templates, str):
            problems += [
                f"mention_templates: {text!r} must contain {{subject}} once and, after it, {{prompt}} once"
                for text in self.mention_templates
                if text.count("{subject}") != 1 or text.partition("{subject}")[2].count("{prompt}") != 1
            ]
        return problems
