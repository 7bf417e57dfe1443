"""Hyperparameters of methods that locate facts at MLP layers: MEMIT's, under the names of EasyEdit's YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams

_TEMPLATES = ("rewrite_module_tmp", "layer_module_tmp")


@dataclass(kw_only=True)
class LocateEditHyperParams(PluginHyperParams):
    """Hyperparameters that MEMIT-like methods share (arXiv 2210.07229).

    Attributes:
        layers: the critical path: blocks whose MLP output projections are edited, from first to last.
        num_layers: edit only the last that many of ``layers``.
        rewrite_module_tmp: path of the edited projection, ``{}`` for the block's number.
        layer_module_tmp: path of a block. Target vectors are optimised at the last edited one's output.
        mlp_module_tmp: of EasyEdit's files; not used here.
        attn_module_tmp: of EasyEdit's files; not used here.
        ln_f_module: path of the final norm; used where ``v_loss_layer`` is not the last block.
        lm_head_module: of EasyEdit's files; the model itself says which module its output head is.
        layer_selection: of EasyEdit's files; must be ``all``.
        fact_token: token of the prompt at which the fact is written: ``subject_last``,
            ``subject_first``, ``subject_first_after_last``, or ``last``, the prompt's last.
        v_num_grad_steps: largest number of steps of Adam on the target vectors (one less than that moves them).
        v_lr: learning rate of Adam.
        v_loss_layer: block whose output predicts the target in the loss; None for the last one.
        v_weight_decay: weight of the change's norm, relative to the squared norm of what it changes.
        v_stop_loss: the optimisation of a request's target vector stops when its loss is below this.
        clamp_norm_factor: largest norm of a change, relative to the norm of what it changes.
        kl_factor: weight of the KL divergence of the model's prediction at the subject of ``{subject} is a``.
        context_template_length_params: prefixes that the model generates, as ``[tokens, how many]`` pairs.
        mention_templates: further contexts in which target vectors are optimised, beyond MEMIT's: texts with
            ``{subject}`` and then ``{prompt}``, where the fact is looked up at the earlier mention. They make
            a vector work at a distance and in other wordings (generality). The papers have none.
        mom2_adjustment: of EasyEdit's files; must be true, since the update needs second moments.
        mom2_update_weight: λ in λ E[kkᵀ]: how much the old keys weigh.
        mom2_dataset: the text that the second moments are collected from; see docs/covariance.md.
        mom2_n_samples: how many of its documents.
        mom2_n_tokens: how many of its tokens instead, if given.
        mom2_dtype: dtype of the statistics.
        mom2_engine: what collects them: ``native``, or ``easyedit`` for EasyEdit's ``layer_stats``.
        stats_dir: folder of the statistics; None for this package's own cache.
    """

    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "fact_token": ("subject_last", "subject_first", "subject_first_after_last", "last"),
        "layer_selection": ("all",),
        "mom2_adjustment": (True,),
        "mom2_dtype": ("float32", "float64"),
        "mom2_engine": ("native", "easyedit"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **PluginHyperParams.AT_LEAST,
        **dict.fromkeys(("num_layers", "v_num_grad_steps", "mom2_n_samples", "mom2_n_tokens"), 1),
        **dict.fromkeys(("v_loss_layer", "v_weight_decay", "kl_factor", "v_stop_loss"), 0),
    }
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("v_lr", "clamp_norm_factor", "mom2_update_weight")
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *("layers", "num_layers", "rewrite_module_tmp", "layer_module_tmp", "fact_token"),
        *("seed", "context_template_length_params", "mom2_update_weight"),
        *("mom2_dataset", "mom2_n_samples", "mom2_n_tokens", "mom2_dtype"),
    )
    """Settings that consecutive batches must share."""

    layers: list[int]
    rewrite_module_tmp: str
    layer_module_tmp: str
    mlp_module_tmp: str = ""
    attn_module_tmp: str = ""
    ln_f_module: str = ""
    lm_head_module: str = ""
    layer_selection: str = "all"
    fact_token: str = "subject_last"
    num_layers: int | None = None
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
        """The blocks that are edited, from first to last."""
        return self.layers if self.num_layers is None else self.layers[-self.num_layers :]

    @property
    def rewrite_modules(self) -> list[str]:
        """Paths of the edited projections."""
        return [self.rewrite_module_tmp.format(layer) for layer in self.edited_layers]

    def check(self) -> list[str]:
        """Return what is wrong with these values together."""
        problems = []
        layers = self.layers if _is_list_of(self.layers, int) else None  # else the type's own message is enough
        if layers is not None and (layers != sorted(set(layers)) or not layers or layers[0] < 0):
            problems.append(f"layers: {layers} must be block numbers from first to last, each once")
        elif layers is not None and isinstance(self.num_layers, int) and self.num_layers > len(layers):
            problems.append(f"num_layers: {self.num_layers} is more than the {len(layers)} of layers")
        for name in _TEMPLATES:
            value = getattr(self, name)
            if isinstance(value, str) and (value.count("{}") != 1 or value.count("{") + value.count("}") != 2):
                problems.append(f"{name}: {value!r} must hold one {{}} for the block's number")
        lengths = self.context_template_length_params
        pairs = isinstance(lengths, list) and all(_is_list_of(pair, int) for pair in lengths)
        if pairs and any(len(pair) != 2 or min(pair) < 1 for pair in lengths):
            problems.append("context_template_length_params: must be [tokens, how many] pairs")
        if self.mention_templates and self.fact_token == "last":
            problems.append("mention_templates: need a subject token; fact_token is last")
        if _is_list_of(self.mention_templates, str):
            problems += [
                f"mention_templates: {text!r} must hold {{subject}} and then {{prompt}}, once each"
                for text in self.mention_templates
                if text.count("{subject}") != 1 or text.partition("{subject}")[2].count("{prompt}") != 1
            ]
        if self.mom2_n_samples is None and self.mom2_n_tokens is None:
            problems.append("mom2_n_tokens: give it or mom2_n_samples")
        return problems


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
