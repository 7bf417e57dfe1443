"""The editor of the retrieval methods: it puts the nearest facts in front of prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.retrieval.auto_threshold import auto_threshold
from easyedit_lifelong.methods.retrieval.config import AUTO, IKEHyperParams, RetrievalHyperParams, SERACHyperParams
from easyedit_lifelong.methods.retrieval.contexts import BEGINNING, PROMPT, join_context
from easyedit_lifelong.methods.retrieval.demonstrations import Demonstrations
from easyedit_lifelong.methods.retrieval.embedding import Embedder, KeySpace, Standardisation, embedder_for
from easyedit_lifelong.methods.retrieval.scope_classifier import load_classifier
from easyedit_lifelong.methods.shared.editors import editors_on
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
from easyedit_lifelong.methods.shared.separate_edits import SeparateEditor
from easyedit_lifelong.models.context_attachment import ContextAttachment
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.wrappers import unwrap_model

KEY, MEAN, SPREAD = "key", "mean", "spread"
"""Names of the tensors of an edit: the embedding e of its prompt, and μ and s of :class:`.Standardisation`, each of
shape ``(width,)``, float32."""

THRESHOLD, CLASSIFIER = "threshold", "classifier"
"""Names of the data of SERAC's edits: the threshold, and the digest of the scope classifier (empty: none)."""


@dataclass(frozen=True)
class Retrieved:
    """The edits that are nearest to a prompt.

    Attributes:
        edits: the edits, the nearest first; at least one.
        cosines: the cosine between the prompt and each edit's prompt.
        answers: whether their facts are put in front of the prompt.
    """

    edits: Sequence[SeparateEdit]
    cosines: Sequence[float]
    answers: bool


@dataclass(frozen=True)
class Comparison:
    """How prompts are compared with edits.

    Attributes:
        embedder: embeds prompts.
        standardisation: μ and s, which edits store.
        space: the space of the comparison.
        scope: what edits store of their scope, by name.
    """

    embedder: Embedder
    standardisation: Standardisation
    space: KeySpace
    scope: Mapping[str, float | str] = field(default_factory=dict)


class RetrievalEditor(SeparateEditor):
    """Puts the facts of the nearest edits in front of a prompt, if the prompt is in their scope.

    With the embedding e of a prompt, e_j of an edit's prompt, and the mean μ and spread s of
    :class:`.Standardisation`:

        c_j = cos((e - μ) / s, (e_j - μ) / s)

    The edits with the largest c_j are the nearest ones. A decision depends on the tokens of one prompt only. So
    padding, other rows and the KV cache do not change it.

    Args:
        model: the model.
        hparams: the hyperparameters.

    Attributes:
        scope_names: what edits store of their scope: names and types.
        shown_settings: the hyperparameters that ``inspect`` shows.
        model: the model.
        comparison: how prompts are compared with the edits. Whoever adds edits sets it; see :meth:`prepare`.
        demonstrations: those of the last edits that were made here.
    """

    same_settings: ClassVar[Sequence[str]] = RetrievalHyperParams.SAME_SETTINGS
    scope_names: ClassVar[Mapping[str, type]] = {}
    shown_settings: ClassVar[Sequence[str]] = (*RetrievalHyperParams.SAME_SETTINGS, "fact_template")

    def __init__(self, model: Any, hparams: Any) -> None:
        self.model = unwrap_model(model)
        self.comparison: Comparison | None = None
        self.demonstrations: Demonstrations | None = None
        self._table: _Table | None = None
        self._suspended = False
        self._record: Callable[[Sequence[Retrieved]], None] | None = None
        for editor_class in EDITORS:
            name = editor_class.hparams_class.ALG_NAME
            if editors_on(model, name):
                raise EditError(
                    f"the model carries {name} edits, which put texts in front of prompts. Roll them back first."
                )
        super().__init__(model, hparams)

    def attach(self, model: Any) -> Callable[[], None]:
        """Attach the editor to the input of the model; return a function that detaches it."""
        return ContextAttachment(model, self.contexts_of, self.beginning).detach

    def edits_changed(self) -> None:
        """Drop the table. The next pass makes a new one."""
        self._table = None

    def n_nearest(self) -> int:
        """Return the number of facts in front of a prompt."""
        return 1

    @classmethod
    def prepare(cls, model: Any, tokenizer: Any, hparams: Any, edits: Sequence[SeparateEdit]) -> Comparison:
        """Return how prompts are compared with edits.

        Args:
            model: the model.
            tokenizer: its tokenizer; None if all edits are known and prompts are embedded by the model.
            hparams: the hyperparameters.
            edits: edits that were made with these hyperparameters; if there are none, what they need is measured.

        Raises:
            ModelError: the model has no such block.
            HyperParameterError: the sentence encoder cannot be used.
            EditError: there is no tokenizer for a sentence encoder, or embeddings are not finite.
        """
        embedder = embedder_for(model, tokenizer, hparams)
        if edits:
            return Comparison(embedder, standardisation_of(edits[-1]), standardisation_of(edits[-1]))
        standardisation = Standardisation.measured(embedder, tokenizer)
        return Comparison(embedder, standardisation, standardisation)

    @staticmethod
    def threshold_of(edit: SeparateEdit) -> float | None:
        """Return the cosine above which a prompt is in the scope of its nearest edit; None: every prompt is."""
        return None

    @property
    def answering(self) -> list[SeparateEdit]:
        """The edits that can answer: those without a later edit of the same prompt."""
        latest = {prompt_of(edit): edit for edit in self.edits}
        return list(latest.values())

    def beginning(self) -> int | None:
        """Return the token that begins every text; None if texts begin without one."""
        return next((edit.data[BEGINNING][0] for edit in self.edits if edit.data[BEGINNING]), None)

    def contexts_of(self, prompts: Sequence[list[int]]) -> list[list[int] | None] | None:
        """Return the text in front of each prompt; see :data:`.Contexts`."""
        if self._suspended or not self.edits:
            return None
        if not prompts:
            return []
        retrieved = self.retrieve(prompts)
        if self._record is not None:
            self._record(retrieved)
        return [join_context([edit.data for edit in found.edits]) if found.answers else None for found in retrieved]

    @torch.no_grad()
    def retrieve(self, prompts: Sequence[list[int]]) -> list[Retrieved]:
        """Return the nearest edits of prompts, given their token ids. The editor must have edits."""
        device = self.model.get_input_embeddings().weight.device
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            assert self.comparison is not None
            if self._table is None:
                self._table = _Table(self.answering, self.comparison.space)
            queries = self.comparison.space.unit(self.comparison.embedder.embed(prompts)).cpu()
            cosines = queries @ self._table.unit_keys.t()
            best = cosines.topk(min(self.n_nearest(), len(self._table.edits)), dim=1)
        retrieved = []
        for values, numbers in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            edits = [self._table.edits[number] for number in numbers]
            threshold = self.threshold_of(edits[0])
            retrieved.append(Retrieved(edits, values, threshold is None or values[0] > threshold))
        return retrieved

    def without_edits(self) -> AbstractContextManager[None]:
        """Leave out the edits of this editor within the context."""
        return overridden("_suspended", {self: True})

    def recording(self, record: Callable[[Sequence[Retrieved]], None]) -> AbstractContextManager[None]:
        """Call ``record`` with the nearest edits of the prompts of each pass within the context."""
        return overridden("_record", {self: record})


def prompt_of(edit: SeparateEdit) -> tuple[int, ...]:
    """Return what an edit is of: the tokens of its prompt. The latest of the edits of one prompt answers."""
    return tuple(edit.data[PROMPT])


class _Table:
    """The keys of the edits that can answer, of unit length.

    Args:
        edits: the edits; not empty.
        space: gives the keys unit length.
    """

    def __init__(self, edits: Sequence[SeparateEdit], space: KeySpace) -> None:
        self.edits = edits
        self.unit_keys: Tensor = space.unit(torch.stack([edit.tensors[KEY] for edit in edits]))


def standardisation_of(edit: SeparateEdit) -> Standardisation:
    """Return the standardisation that an edit was made with."""
    return Standardisation(edit.tensors[MEAN], edit.tensors[SPREAD])


class IKEEditor(RetrievalEditor):
    """Puts the nearest facts in front of every prompt (IKE, arXiv 2305.12740)."""

    hparams_class = IKEHyperParams
    same_settings: ClassVar[Sequence[str]] = IKEHyperParams.SAME_SETTINGS
    shown_settings: ClassVar[Sequence[str]] = (*IKEHyperParams.SAME_SETTINGS, "fact_template")

    def n_nearest(self) -> int:
        """Return the number of facts in front of a prompt."""
        return int(self.hparams.n_facts)


class SERACEditor(RetrievalEditor):
    """Puts the nearest fact in front of a prompt if the prompt is in its scope (SERAC, arXiv 2206.06520).

    A prompt is in scope if its cosine with the edit is above the threshold. A batch without such prompts gets bitwise
    the base model's logits.
    """

    hparams_class = SERACHyperParams
    same_settings: ClassVar[Sequence[str]] = SERACHyperParams.SAME_SETTINGS
    shown_settings: ClassVar[Sequence[str]] = (*SERACHyperParams.SAME_SETTINGS, "fact_template")
    scope_names: ClassVar[Mapping[str, type]] = {THRESHOLD: float, CLASSIFIER: str}

    @classmethod
    def prepare(cls, model: Any, tokenizer: Any, hparams: Any, edits: Sequence[SeparateEdit]) -> Comparison:
        """Return how prompts are compared with edits; see :meth:`RetrievalEditor.prepare`.

        Raises:
            RunError: the classifier cannot be used, or is another one than that of the edits.
        """
        if hparams.scope_classifier is None:
            plain = super().prepare(model, tokenizer, hparams, edits)
            if edits:
                threshold = edits[-1].data[THRESHOLD]
            elif hparams.threshold == AUTO:
                rate = hparams.false_fire_rate
                threshold = auto_threshold(plain.embedder, tokenizer, plain.standardisation, rate)
            else:
                threshold = hparams.threshold
            return dataclasses.replace(plain, scope={THRESHOLD: threshold, CLASSIFIER: ""})
        classifier = load_classifier(hparams.scope_classifier, model, hparams)
        digest = classifier.digest()
        if edits and edits[-1].data[CLASSIFIER] != digest:
            raise RunError(f"{hparams.scope_classifier}: the edits were made with another scope classifier")
        scope: dict[str, float | str] = {THRESHOLD: classifier.threshold, CLASSIFIER: digest}
        return Comparison(embedder_for(model, tokenizer, hparams), classifier.standardisation, classifier, scope)

    @staticmethod
    def threshold_of(edit: SeparateEdit) -> float | None:
        """Return the cosine above which a prompt is in the scope of its nearest edit."""
        return float(edit.data[THRESHOLD])


EDITORS: tuple[type[RetrievalEditor], ...] = (IKEEditor, SERACEditor)
"""The editors of the retrieval methods."""
