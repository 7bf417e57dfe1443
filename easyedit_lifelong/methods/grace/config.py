"""GRACE's hyperparameters, with the names that EasyEdit's YAML files use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.shared.subject_keys.key_texts import template_problems
from easyedit_lifelong.methods.shared.vector_optimisers import ADAM, LBFGS
from easyedit_lifelong.models.reduced_products import TRAIN_DTYPES

ACTIVATIONS, RELATIONS = "activations", "relations"
"""The distances of the relation gate."""

_SUBJECT_SETTINGS = (
    "whiten",
    "key_templates",
    "context_templates",
    "kl_factor",
    "answer_layer",
    "gate_eps",
    "named_eps",
)
"""Settings that need ``query_token: subject_last``."""


@dataclass(kw_only=True)
class GraceHyperParams(PluginHyperParams):
    """Hyperparameters of GRACE (arXiv 2211.11031), loadable from an unchanged EasyEdit YAML.

    Attributes:
        inner_params: a list of one layer, which gets the codebook: dotted or bracketed name of a module or of its
            weight.
        edit_lr: learning rate of Adam for a new value; ``lbfgs`` takes the scale of its longest step from it.
        optimizer: ``adam`` as in the paper, or ``lbfgs``, limited-memory BFGS, which needs a third of the steps.
        n_iter: maximum number of optimisation steps for a new value.
        eps: deferral radius of a new key, in units of ``dist_fn`` (section 3.2). ``auto`` derives each key's radius
            from sample sentences; see ``false_fire_rate``.
        dist_fn: distance between query and key: ``euc`` for Euclidean, ``cos`` for 1 - cosine similarity.
        val_init: start of a new value: ``cold``, uniform in [0, 1), or ``warm``, the output that it replaces.
        val_train: ``sgd``, or ``adv`` to train ``num_pert`` copies of the value at once, all but the first with
            standard normal noise. (In the authors' code that noise is always zero.)
        val_reg: has no effect in the authors' code; only None loads.
        reg: ``early_stop`` to stop once the target is learned (see ``stop_loss``), or None.
        query_token: token whose activation is the query. ``prompt_last``: the prompt's last token (in an encoder the
            last real token, in a decoder the start token). ``first``: the row's first token, such as BERT's [CLS]; not
            for causal language models, whose first token has seen nothing of the prompt. ``subject_last``: an edit's
            key is taken at its subject's last token, and every token of a pass is a query token; this mode is not in
            the paper.
        replacement: tokens whose output a value replaces when a key matches: ``replace_last``, the query token;
            ``replace_all``, every token; ``replace_prompt``, the tokens before the prompt's last token (as in the
            authors' code), or after the first token with ``query_token: first``.
        eps_expand: how a key's radius expands to contain a new edit of the same label: ``coverage`` sets it to the
            distance of the new edit; ``moving_average`` also moves the key half-way to the new edit.
        num_pert: number of copies with ``val_train: adv``.
        dropout: rate of the dropout modules in the edited block and later ones while a value is trained. It has no
            effect on families without such modules (Llama, Qwen, Mistral).
        train_batch: number of edits of one call that are trained in one batch. It has no effect with ``val_train: adv``
            or dropout, nor on models other than causal language models. The decisions equal those of single edits.
        stop_loss: with ``reg: early_stop``, training stops when the loss is at most this (nats per token) and the most
            likely token is the right one at every position of the target.
        eos: end targets with the tokenizer's end-of-text token, so that the model learns where its answer stops. It has
            an effect in causal language models only.
        tokens_per_key: number of target tokens that the value of one key has to give. An edit with a longer target has
            further keys: the activations after each further ``tokens_per_key`` tokens of the target; see
            :mod:`easyedit_lifelong.methods.grace.training.further_keys`. 0: one key gives the whole target, as in the
            paper.
        likely_tokens: number of tokens, for each edit, whose logits are computed while its value is trained. A pass
            with all tokens then checks the value; see
            :mod:`easyedit_lifelong.methods.grace.training.restricted_training`. 0: all tokens. It has no effect on
            models other than causal language models, on further keys, where partial passes aren't possible, nor where
            the output head is no plain linear layer.
        train_dtype: dtype of the matrix products while a value is trained, in a model in float32: None for the model's
            own, ``bfloat16``, or ``auto`` for bfloat16 where the processor has instructions for it. An exact pass then
            checks the value, as for ``likely_tokens``, and it has an effect in the same cases.
        whiten: compare keys after whitening by the second moments of the layer's inputs, which reduces the weight of
            directions that all tokens share. docs/covariance.md says where the second moments come from.
        key_templates: with ``subject_last``, texts with ``{subject}`` or ``{prompt}``. An edit has one key vector for
            its prompt and one for each template, since a subject at the start of a text has other activations than in
            the middle of one.
        context_templates: texts with ``{subject}`` or ``{prompt}``, after which the target is trained as well.
        kl_factor: weight, in the loss of a value, of the KL divergence between the edited and the base model's
            distributions of the next token after ``{subject} is a``.
        answer_layer: with ``subject_last``, a later layer where the value replaces the output, at the prompt's last
            token. None: the value replaces the output of the ``inner_params`` layer at the subject's last token.
        gate_eps: radius of the relation gate at ``answer_layer``: an edit answers only if the distance between the
            prompt's last token and that of the edit's own prompt is at most this. None: no gate, so that an edit
            answers every prompt about its subject.
        gate_metric: distance of the relation gate. ``activations``: cosine distance of activations. ``relations``:
            cosine distance in the directions in which relations differ, which the first edit with a model finds on
            prompts of this package; see :mod:`easyedit_lifelong.methods.grace.codebook.relation_metric`.
        named_eps: with ``answer_layer``, the least radius of a key where the words of the text name its subject. Then a
            key does not match where they name something else; see
            :mod:`easyedit_lifelong.methods.grace.subject.named_subjects`. None: words are not compared.
        false_fire_rate: with ``eps: auto``, the share of sentences about other subjects in which some key of a
            codebook of about a hundred keys may match; see
            :mod:`easyedit_lifelong.methods.shared.subject_keys.auto_radius`.
        mom2_dataset: corpus of the second moments, as in MEMIT.
        mom2_n_samples: number of documents to read.
        mom2_n_tokens: number of tokens to read, instead of documents. Without either, ten tokens per dimension.
        mom2_dtype: dtype of the second moments.
        mom2_engine: collects the second moments: ``native``, or ``easyedit`` for EasyEdit's ``layer_stats``.
        stats_dir: folder of the second moments; None for this package's cache.
    """

    ALG_NAME: ClassVar[str] = "GRACE"
    ALIASES: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "val_train": {"pert": "adv"},
        "reg": {"early": "early_stop"},
        "eps_expand": {"moving_avg": "moving_average"},
    }
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "dist_fn": ("euc", "cos"),
        "optimizer": (ADAM, LBFGS),
        "train_dtype": TRAIN_DTYPES,
        "val_init": ("cold", "warm"),
        "val_train": ("sgd", "adv"),
        "val_reg": (None,),
        "reg": ("early_stop", None),
        "query_token": ("prompt_last", "first", "subject_last"),
        "replacement": ("replace_last", "replace_all", "replace_prompt"),
        "eps_expand": ("coverage", "moving_average"),
        "gate_metric": (ACTIVATIONS, RELATIONS),
        "mom2_dtype": ("float32", "float64"),
        "mom2_engine": ("native", "easyedit"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **PluginHyperParams.AT_LEAST,
        "n_iter": 1,
        "num_pert": 1,
        "train_batch": 1,
        "tokens_per_key": 0,
        "likely_tokens": 0,
        "dropout": 0,
        "kl_factor": 0,
        "mom2_n_samples": 1,
        "mom2_n_tokens": 1,
    }
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("edit_lr", "stop_loss", "gate_eps", "named_eps", "false_fire_rate")

    inner_params: list[str]
    edit_lr: float = 1.0
    optimizer: str = ADAM
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
    eos: bool = False
    tokens_per_key: int = 0
    likely_tokens: int = 0
    train_dtype: str | None = None
    whiten: bool = False
    key_templates: list[str] = field(default_factory=list)
    context_templates: list[str] = field(default_factory=list)
    kl_factor: float = 0.0
    answer_layer: str | None = None
    gate_eps: float | None = None
    gate_metric: str = ACTIVATIONS
    named_eps: float | None = None
    false_fire_rate: float = 0.01
    mom2_dataset: str = "self-sampled"
    mom2_n_samples: int | None = None
    mom2_n_tokens: int | None = None
    mom2_dtype: str = "float32"
    mom2_engine: str = "native"
    stats_dir: str | None = None

    @property
    def by_subject(self) -> bool:
        """Whether edits are found by their subjects (``query_token: subject_last``)."""
        return self.query_token == "subject_last"

    @property
    def vectors_per_key(self) -> int:
        """Number of key vectors of each key: one for the prompt, and one for each key template."""
        return 1 + len(self.key_templates)

    def check(self) -> list[str]:
        """Return problems with these values in combination, one message each."""
        problems = []
        if isinstance(self.inner_params, list) and len(self.inner_params) != 1:
            problems.append(f"inner_params: GRACE edits one layer, {len(self.inner_params)} are named")
        if isinstance(self.dropout, float) and self.dropout >= 1:
            problems.append(f"dropout: {self.dropout} must be less than 1")
        if self.dropout and self.optimizer == LBFGS:
            problems.append("dropout: needs optimizer: adam, because lbfgs compares the losses of passes")
        if isinstance(self.eps, str) and self.eps != "auto":
            problems.append(f"eps: {self.eps!r} is neither a number nor auto")
        elif isinstance(self.eps, float) and self.eps < 0:
            problems.append(f"eps: {self.eps} is less than 0")
        if isinstance(self.false_fire_rate, float) and self.false_fire_rate >= 1:
            problems.append(f"false_fire_rate: {self.false_fire_rate} must be less than 1")
        if self.val_train != "sgd" or self.dropout:
            problems += [
                f"{name}: needs val_train: sgd and dropout: 0, because values are checked by a last pass"
                for name in ("likely_tokens", "train_dtype")
                if getattr(self, name)
            ]
        if self.tokens_per_key:
            problems += self._check_tokens_per_key()
        return problems + (self._check_subject() if self.by_subject else self._check_prompt())

    def _check_tokens_per_key(self) -> list[str]:
        """Return a problem for each setting that does not work with further keys."""
        problems = []
        for name, required in (("replacement", "replace_last"), ("val_train", "sgd")):
            value = getattr(self, name)
            if value != required:
                problems.append(f"tokens_per_key: needs {name}: {required}, not {value}")
        if self.query_token == "first":
            problems.append("tokens_per_key: needs a causal language model, which query_token: first does not suit")
        if self.by_subject and self.answer_layer is None:
            problems.append("tokens_per_key: needs answer_layer, the layer whose inputs further keys are compared with")
        return problems

    def _check_prompt(self) -> list[str]:
        """Return a problem for each setting that needs edits by subject."""
        settings = [name for name in _SUBJECT_SETTINGS if getattr(self, name)]
        if self.eps == "auto":
            settings.append("eps: auto")
        if self.gate_metric != ACTIVATIONS:
            settings.append(f"gate_metric: {self.gate_metric}")
        return [f"{name}: needs query_token: subject_last" for name in settings]

    def _check_subject(self) -> list[str]:
        """Return a problem for each setting that does not work with edits by subject."""
        problems = []
        for name, required in (("replacement", "replace_last"), ("val_train", "sgd"), ("eps_expand", "coverage")):
            value = getattr(self, name)
            if value != required:
                need = f"query_token: subject_last, which needs {required}"
                problems.append(f"{name}: {value} can't be combined with {need}")
        if self.gate_eps is not None and self.answer_layer is None:
            problems.append("gate_eps: needs answer_layer, the layer at which prompts are compared")
        if self.gate_metric == RELATIONS and self.answer_layer is None:
            problems.append("gate_metric: relations needs answer_layer, the layer at which prompts are compared")
        if self.named_eps is not None and self.answer_layer is None:
            problems.append("named_eps: needs answer_layer")
        for name in ("key_templates", "context_templates"):
            texts = getattr(self, name)
            problems += template_problems(name, texts)
        return problems
