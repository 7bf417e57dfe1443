"""GRACE's hyperparameters, under the names that EasyEdit's YAML files give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams


@dataclass(kw_only=True)
class GraceHyperParams(PluginHyperParams):
    """Hyperparameters of GRACE (arXiv 2211.11031), loadable from an unchanged EasyEdit YAML.

    Attributes:
        inner_params: the one layer that carries the codebook; dotted or bracketed name of a module
            or of its weight.
        edit_lr: learning rate of Adam on the new value.
        n_iter: steps on the new value, at most.
        eps: deferral radius that a new key starts with, in units of ``dist_fn`` (section 3.2).
        dist_fn: distance between query and key: ``euc``, or ``cos`` for 1 - cosine similarity.
        val_init: where a new value starts: ``cold``, uniform in [0, 1), or ``warm``, what the layer
            returned at that token.
        val_train: ``sgd``, or ``adv`` to train ``num_pert`` copies of the value together, all but
            the first with standard normal noise. (In the authors' code that noise is always zero.)
        val_reg: has no effect in the authors' code; only None loads.
        reg: ``early_stop`` to stop once the answer is learned (see ``stop_loss``), or None.
        query_token: which token is looked up in the codebook: ``prompt_last``, the prompt's last (its last real
            token for an encoder, the start token for a decoder), or ``first``, the row's first, such as BERT's
            [CLS]; not for causal language models, whose first token has seen nothing.
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
        "query_token": ("prompt_last", "first"),
        "replacement": ("replace_last", "replace_all", "replace_prompt"),
        "eps_expand": ("coverage", "moving_average"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **PluginHyperParams.AT_LEAST, "n_iter": 1, "num_pert": 1, "train_batch": 1, "dropout": 0, "eps": 0,
    }  # fmt: skip
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("edit_lr", "stop_loss")

    inner_params: list[str]
    edit_lr: float = 1.0
    n_iter: int = 100
    eps: float = 1.0
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

    def check(self) -> list[str]:
        """Return what is wrong with these values together."""
        problems = []
        if isinstance(self.inner_params, list) and len(self.inner_params) != 1:
            problems.append(f"inner_params: GRACE edits one layer, {len(self.inner_params)} are named")
        if isinstance(self.dropout, float) and self.dropout >= 1:
            problems.append(f"dropout: {self.dropout} must be less than 1")
        return problems
