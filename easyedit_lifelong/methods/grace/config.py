"""GRACE's hyperparameters, under the names that EasyEdit's YAML files give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams

SUBJECT, PROMPT = "{subject}", "{prompt}"
"""What templates hold in a fact's place."""

_BY_SUBJECT = ("whiten", "key_templates", "context_templates", "kl_factor", "answer_layer", "gate_eps")


@dataclass(kw_only=True)
class GraceHyperParams(PluginHyperParams):
    """Hyperparameters of GRACE (arXiv 2211.11031), loadable from an unchanged EasyEdit YAML.

    Attributes:
        inner_params: the one layer that carries the codebook; dotted or bracketed name of a module
            or of its weight.
        edit_lr: learning rate of Adam on the new value.
        n_iter: steps on the new value, at most.
        eps: deferral radius that a new key starts with, in units of ``dist_fn`` (section 3.2); ``auto`` to take it from
            each key's own neighbourhood, see ``false_fire_rate``.
        dist_fn: distance between query and key: ``euc``, or ``cos`` for 1 - cosine similarity.
        val_init: where a new value starts: ``cold``, uniform in [0, 1), or ``warm``, what the layer
            returned at that token.
        val_train: ``sgd``, or ``adv`` to train ``num_pert`` copies of the value together, all but
            the first with standard normal noise. (In the authors' code that noise is always zero.)
        val_reg: has no effect in the authors' code; only None loads.
        reg: ``early_stop`` to stop once the answer is learned (see ``stop_loss``), or None.
        query_token: which token is looked up in the codebook: ``prompt_last``, the prompt's last (its last real
            token for an encoder, the start token for a decoder); ``first``, the row's first, such as BERT's
            [CLS]; not for causal language models, whose first token has seen nothing. ``subject_last``: an edit's
            key is taken at its subject's last token, and every token is looked up. The paper hasn't that.
        replacement: which tokens get the value when a key fires: ``replace_last``, the token that was
            looked up; ``replace_all``, every token; ``replace_prompt``, the tokens before the last
            prompt token (as the authors' code has it), with ``query_token: first`` those behind the first.
        eps_expand: how a key's radius grows to cover a new edit of the same label: ``coverage``,
            out to it; or ``moving_average``, which also moves the key half-way.
        num_pert: copies that ``val_train: adv`` trains.
        dropout: rate of the dropout modules from the edited block on while a value is trained. Families
            without such modules (Llama, Qwen, Mistral) aren't affected, and say so.
        train_batch: how many edits of one call are trained in the same passes; not with ``val_train: adv`` or dropout,
            nor on models that aren't causal language models. Decisions are the same as one by one.
        stop_loss: with ``reg: early_stop``, training ends when the model's own next token is the
            right one at every target token and the loss is at most this (nats per token).
        whiten: compare keys after whitening by the second moments of the layer's inputs; see docs/covariance.md for
            where these come from. The directions that all tokens share then count for little.
        key_templates: with ``subject_last``, texts with ``{subject}`` or ``{prompt}`` that an edit's key is taken in
            as well as in its prompt. A subject that begins a text looks unlike itself in the middle of one.
        context_templates: texts with ``{subject}`` or ``{prompt}`` that the target has to follow as well as the prompt.
        kl_factor: weight of the divergence of what is said after ``{subject} is a`` while a value is trained.
        answer_layer: with ``subject_last``, a later layer at which an edit answers: where its subject has been found,
            the value takes the place of what this layer returns at the prompt's last token. None: of what
            ``inner_params`` returns at the subject's token.
        gate_eps: deferral radius of a second key, at ``answer_layer``: how far, in cosine distance, a prompt's last
            token may be from that of the edit's own prompt. None: an edit answers every prompt on its subject.
        false_fire_rate: with ``eps: auto``, the share of neutral sentences in which some key of a codebook of a
            hundred or so may answer; see :mod:`easyedit_lifelong.methods.grace.subject.auto_radius`.
        mom2_dataset: what the second moments are taken of, as MEMIT's.
        mom2_n_samples: how many of its documents.
        mom2_n_tokens: how many of its tokens instead; with neither, ten for each dimension.
        mom2_dtype: MEMIT's name of the statistics' dtype.
        mom2_engine: what collects them: ``native``, or ``easyedit`` for EasyEdit's ``layer_stats``.
        stats_dir: folder of the statistics; None for this package's own cache.
    """

    ALG_NAME: ClassVar[str] = "GRACE"
    ALIASES: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "val_train": {"pert": "adv"},
        "reg": {"early": "early_stop"},
        "eps_expand": {"moving_avg": "moving_average"},
    }
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "dist_fn": ("euc", "cos"),
        "val_init": ("cold", "warm"),
        "val_train": ("sgd", "adv"),
        "val_reg": (None,),
        "reg": ("early_stop", None),
        "query_token": ("prompt_last", "first", "subject_last"),
        "replacement": ("replace_last", "replace_all", "replace_prompt"),
        "eps_expand": ("coverage", "moving_average"),
        "mom2_dtype": ("float32", "float64"),
        "mom2_engine": ("native", "easyedit"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **PluginHyperParams.AT_LEAST,
        "n_iter": 1,
        "num_pert": 1,
        "train_batch": 1,
        "dropout": 0,
        "kl_factor": 0,
        "mom2_n_samples": 1,
        "mom2_n_tokens": 1,
    }
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("edit_lr", "stop_loss", "gate_eps", "false_fire_rate")

    inner_params: list[str]
    edit_lr: float = 1.0
    n_iter: int = 100
    eps: float | str = 1.0
    dist_fn: str = "euc"
    val_init: str = "cold"
    val_train: str = "sgd"
    val_reg: str | None = None
    reg: str | None = "early_stop"
    query_token: str = "prompt_last"
    replacement: str = "replace_last"
    eps_expand: str = "coverage"
    num_pert: int = 8
    dropout: float = 0.0
    stop_loss: float = 0.05
    train_batch: int = 16
    whiten: bool = False
    key_templates: list[str] = field(default_factory=list)
    context_templates: list[str] = field(default_factory=list)
    kl_factor: float = 0.0
    answer_layer: str | None = None
    gate_eps: float | None = None
    false_fire_rate: float = 0.01
    mom2_dataset: str = "self-sampled"
    mom2_n_samples: int | None = None
    mom2_n_tokens: int | None = None
    mom2_dtype: str = "float32"
    mom2_engine: str = "native"
    stats_dir: str | None = None

    @property
    def by_subject(self) -> bool:
        """Whether edits are found by their subjects."""
        return self.query_token == "subject_last"

    @property
    def views(self) -> int:
        """How many views of its subject an edit's key consists of: its prompt's, and one for each key template."""
        return 1 + len(self.key_templates)

    def check(self) -> list[str]:
        """Return what is wrong with these values together."""
        problems = []
        if isinstance(self.inner_params, list) and len(self.inner_params) != 1:
            problems.append(f"inner_params: GRACE edits one layer, {len(self.inner_params)} are named")
        if isinstance(self.dropout, float) and self.dropout >= 1:
            problems.append(f"dropout: {self.dropout} must be less than 1")
        if isinstance(self.eps, str) and self.eps != "auto":
            problems.append(f"eps: {self.eps!r} is neither a number nor auto")
        elif isinstance(self.eps, float) and self.eps < 0:
            problems.append(f"eps: {self.eps} is less than 0")
        if isinstance(self.false_fire_rate, float) and self.false_fire_rate >= 1:
            problems.append(f"false_fire_rate: {self.false_fire_rate} must be less than 1")
        return problems + (self._check_subject() if self.by_subject else self._check_prompt())

    def _check_prompt(self) -> list[str]:
        given = [name for name in _BY_SUBJECT if getattr(self, name)] + ["eps: auto"] * (self.eps == "auto")
        return [f"{name}: needs query_token: subject_last" for name in given]

    def _check_subject(self) -> list[str]:
        problems = []
        if self.replacement != "replace_last":
            problems.append(f"replacement: {self.replacement} can't be had with query_token: subject_last")
        if self.val_train != "sgd":
            problems.append(f"val_train: {self.val_train} can't be had with query_token: subject_last")
        if self.eps_expand != "coverage":
            problems.append(f"eps_expand: {self.eps_expand} can't be had with query_token: subject_last")
        if self.gate_eps is not None and self.answer_layer is None:
            problems.append("gate_eps: needs answer_layer, where it is decided")
        for name in ("key_templates", "context_templates"):
            texts = getattr(self, name)
            problems += [
                f"{name}: {text!r} must hold either {{subject}} or {{prompt}}, once"
                for text in (texts if isinstance(texts, list) else [])
                if isinstance(text, str) and text.count(SUBJECT) + text.count(PROMPT) != 1
            ]
        return problems
