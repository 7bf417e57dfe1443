"""CoachHook's hyperparameters: MEMIT's, under the names of EasyEdit's YAML files, and a few of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams

_TEMPLATES = ("rewrite_module_tmp", "layer_module_tmp")


@dataclass(kw_only=True)
class CoachHookHyperParams(PluginHyperParams):
    """Hyperparameters of CoachHook (arXiv 2403.05330).

    Attributes:
        layers: the critical path: blocks whose MLP output projections are edited, from first to last.
        num_layers: edit only the last that many of ``layers`` (section 3.3: one layer or several).
        rewrite_module_tmp: path of the edited projection, ``{}`` for the block's number.
        layer_module_tmp: path of a block. Target vectors are optimised at the last edited one's output.
        mlp_module_tmp: MEMIT's; not used here.
        attn_module_tmp: MEMIT's; not used here.
        ln_f_module: path of the final norm; used where ``v_loss_layer`` isn't the last block.
        lm_head_module: MEMIT's; the model says itself which its output head is.
        layer_selection: MEMIT's; ``all``.
        fact_token: token of the prompt at which the fact is written: ``subject_last``,
            ``subject_first``, ``subject_first_after_last``, or ``last``, the prompt's last.
        v_num_grad_steps: steps of Adam on the target vectors, at most (one less than that moves them).
        v_lr: its learning rate.
        v_loss_layer: block whose output predicts the target in the loss; None for the last one.
        v_weight_decay: weight of the change's norm, relative to the squared norm of what it changes.
        v_stop_loss: a request's target vector is done when its loss is below this.
        clamp_norm_factor: largest norm of a change, relative to the norm of what it changes.
        kl_factor: weight of the KL divergence of what the model says behind the subject of ``{subject} is a``.
        context_template_length_params: prefixes that the model is made to generate, as
            ``[tokens, how many]`` pairs.
        mention_templates: further contexts in which target vectors are optimised, beyond MEMIT's: texts with
            ``{subject}`` and then ``{prompt}``, where the fact is looked up at the earlier mention. They make
            a vector work at a distance and in other wordings (generality). The papers have none.
        mom2_adjustment: MEMIT's; must be true, for without second moments there is no C_accu.
        mom2_update_weight: λ in K0K0ᵀ = λ E[kkᵀ]: how much the old keys weigh (equation 3).
        mom2_dataset: what the second moments are taken of; see docs/covariance.md.
        mom2_n_samples: how many of its documents.
        mom2_n_tokens: how many of its tokens instead, if given.
        mom2_dtype: MEMIT's name of the statistics' dtype.
        mom2_engine: what collects them: ``native``, or ``easyedit`` for EasyEdit's ``layer_stats``.
        stats_dir: folder of the statistics; None for this package's own cache.
        alpha_z: score α at which a validated hook swaps at first; it only falls (section 3.2).
        alpha_model: the model in which a batch's z-scores are taken when α falls: ``unedited``, as the
            authors' code does, or ``edited``, as the prompts will be decided on from then on.
        alpha_prompts: the prompts that α falls for: those of the ``batch`` just edited (section 3.2), or of ``all``
            edits so far, whose z-scores sink as edits pile up; needs ``alpha_model: edited``.
        alpha_checked: how many earlier prompts are looked at after a batch, in turn, for ``alpha_prompts: all``;
            None for all of them, every time.
        alpha_floor: a prompt that would need an α below this is given up, and no layer's α falls for it; for
            ``alpha_prompts: all``.
        z_tokens: the tokens whose mean and standard deviation a token's z-score is taken by: ``all`` of its
            prompt (equation 6), or all the ``others``, so that a short prompt can reach as high a score as a long one.
        scope_score: what is compared with α: ``z``, the z-score of ‖O - P‖ (equation 6), or ``weighed``, its
            geometric mean with ‖O - P‖ in units of its root mean square over the text of the second moments.
        wohk: write into the weights, without hook layers.
    """

    ALG_NAME: ClassVar[str] = "CoachHook"
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "fact_token": ("subject_last", "subject_first", "subject_first_after_last", "last"),
        "alpha_model": ("unedited", "edited"),
        "alpha_prompts": ("batch", "all"),
        "z_tokens": ("all", "others"),
        "scope_score": ("z", "weighed"),
        "layer_selection": ("all",),
        "mom2_adjustment": (True,),
        "mom2_dtype": ("float32", "float64"),
        "mom2_engine": ("native", "easyedit"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **PluginHyperParams.AT_LEAST, "num_layers": 1, "v_num_grad_steps": 1, "v_loss_layer": 0, "v_weight_decay": 0,
        "kl_factor": 0, "v_stop_loss": 0, "alpha_checked": 0, "alpha_floor": 0, "mom2_n_samples": 1, "mom2_n_tokens": 1,
    }  # fmt: skip
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("v_lr", "clamp_norm_factor", "mom2_update_weight")

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
    alpha_z: float = 2.2
    alpha_model: str = "unedited"
    alpha_prompts: str = "batch"
    alpha_checked: int | None = None
    alpha_floor: float = 0.0
    z_tokens: str = "all"
    scope_score: str = "z"
    wohk: bool = False

    @property
    def edited_layers(self) -> list[int]:
        """The blocks that are edited, from first to last."""
        return self.layers if self.num_layers is None else self.layers[-self.num_layers :]

    @property
    def rewrite_modules(self) -> list[str]:
        """Paths of the edited projections."""
        return [self.rewrite_module_tmp.format(layer) for layer in self.edited_layers]

    @property
    def weighed(self) -> bool:
        """Whether hook layers weigh z-scores with how large a change is."""
        return self.scope_score == "weighed" and not self.wohk

    def check(self) -> list[str]:
        """Return what is wrong with these values together."""
        problems = []
        layers = self.layers if _is_list_of(self.layers, int) else None  # else that has been said already
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
        if self.alpha_prompts == "all" and self.alpha_model != "edited":
            problems.append("alpha_prompts: all needs alpha_model: edited, the model that all prompts are asked in")
        if self.alpha_checked is not None and self.alpha_prompts != "all":
            problems.append("alpha_checked: needs alpha_prompts: all")
        if self.alpha_floor and self.alpha_prompts != "all":
            problems.append("alpha_floor: needs alpha_prompts: all")
        if self.mom2_n_samples is None and self.mom2_n_tokens is None:
            problems.append("mom2_n_tokens: give it or mom2_n_samples")
        return problems


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
