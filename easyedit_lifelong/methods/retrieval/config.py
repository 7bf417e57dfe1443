"""The hyperparameters of the retrieval methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams

FACT = "{fact}"
"""Stands for the prompt and the target of an edit in ``fact_template``."""


@dataclass(kw_only=True)
class RetrievalHyperParams(PluginHyperParams):
    """Hyperparameters that the retrieval methods share.

    Attributes:
        embedding_layer: number of the block, from 0, whose inputs are averaged over a prompt to embed it.
        sentence_encoder: folder or Hub name of a sentence encoder that embeds prompts in place of the model; its token
            states are averaged. None: the model's own states.
        fact_template: the text of a fact; ``{fact}`` stands for its prompt and target.
        prompt_prefix: the text between the last fact and the prompt.
        demonstrations: a file of records from which demonstrations are made (IKE); None: no demonstrations.
        n_demonstrations: number of demonstrations in front of a fact: the nearest ones to its prompt.
    """

    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **PluginHyperParams.AT_LEAST,
        "embedding_layer": 0,
        "n_demonstrations": 1,
    }
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ("embedding_layer", "sentence_encoder")

    embedding_layer: int = 6
    sentence_encoder: str | None = None
    fact_template: str = "New Fact: {fact}\n"
    prompt_prefix: str = "Prompt:"
    demonstrations: str | None = None
    n_demonstrations: int = 16

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        if isinstance(self.fact_template, str) and self.fact_template.count(FACT) != 1:
            problems.append(f"fact_template: {self.fact_template!r} must contain {FACT} once")
        return problems


@dataclass(kw_only=True)
class IKEHyperParams(RetrievalHyperParams):
    """Hyperparameters of IKE (arXiv 2305.12740) with retrieval; see :class:`RetrievalHyperParams`.

    ``alg_name: IKE`` selects EasyEdit's IKE, and ``alg_name: IKE-native`` selects this one.

    Attributes:
        n_facts: number of facts in front of every prompt: the nearest ones, the nearest last.
    """

    ALG_NAME: ClassVar[str] = "IKE-native"
    AT_LEAST: ClassVar[Mapping[str, float]] = {**RetrievalHyperParams.AT_LEAST, "n_facts": 1}
    # The rollback of an edit must not leave another number of facts to the edits before it.
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (*RetrievalHyperParams.SAME_SETTINGS, "n_facts")

    n_facts: int = 1


AUTO = "auto"
"""The value of ``threshold`` that derives it from sample sentences."""


@dataclass(kw_only=True)
class SERACHyperParams(RetrievalHyperParams):
    """Hyperparameters of SERAC (arXiv 2206.06520) with the base model as counterfactual model.

    See :class:`RetrievalHyperParams`. ``alg_name: SERAC`` selects EasyEdit's SERAC, and ``alg_name: SERAC-native``
    selects this one.

    Attributes:
        threshold: the cosine above which a prompt is in the scope of its nearest edit. ``auto`` derives it from sample
            sentences; see ``false_fire_rate``. A classifier has its own threshold.
        false_fire_rate: with ``threshold: auto``, the share of sentences about other subjects that may be in the scope
            of some edit; see :mod:`easyedit_lifelong.methods.retrieval.auto_threshold`.
        scope_classifier: folder of a trained scope classifier; None: no classifier.
    """

    ALG_NAME: ClassVar[str] = "SERAC-native"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("false_fire_rate",)
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *RetrievalHyperParams.SAME_SETTINGS,
        *("threshold", "false_fire_rate", "scope_classifier"),
    )

    threshold: float | str = AUTO
    false_fire_rate: float = 0.1
    scope_classifier: str | None = None

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        if isinstance(self.threshold, str) and self.threshold != AUTO:
            problems.append(f"threshold: {self.threshold!r} is neither a number nor auto")
        elif isinstance(self.threshold, float) and not -1 <= self.threshold < 1:
            problems.append(f"threshold: {self.threshold} is a cosine, so it must be at least -1 and below 1")
        if isinstance(self.false_fire_rate, float) and self.false_fire_rate >= 1:
            problems.append(f"false_fire_rate: {self.false_fire_rate} must be less than 1")
        return problems
