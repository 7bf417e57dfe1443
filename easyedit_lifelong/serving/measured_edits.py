"""Measure edits of a served model: whether it gives their targets, and what it generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.stopping import end_tokens, text_before_end
from easyedit_lifelong.methods.shared.editors import internal_pass
from easyedit_lifelong.models.encoding import EncodedPair, encode_text
from easyedit_lifelong.models.expected_answer import text_with_answer
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.serving.edit_log import Version

_FURTHER_TOKENS = 3
"""How many tokens more than the target the text has that shows the result of an edit."""


@dataclass(frozen=True)
class MeasuredEdit:
    """An edit that is measured.

    Attributes:
        id: its id.
        prompt: its prompt.
        target: its target.
        joiner: what stands between both; None: the default.
    """

    id: str
    prompt: str
    target: str
    joiner: str | None = None


def measured_edit(entry: Mapping[str, Any]) -> MeasuredEdit:
    """Return an edit as the journal records it."""
    return MeasuredEdit(entry["id"], entry["prompt"], entry["target_new"], entry.get("joiner"))


@dataclass(frozen=True)
class AddedEdits:
    """The measured result of adding edits.

    Attributes:
        version: the new version.
        superseded: the ids of recent edits whose target the model gave before and no longer gives.
    """

    version: Version
    superseded: list[str]


class MeasuredEdits:
    """Measures edits.

    Args:
        tokenizer: the model's tokenizer.
        joiner: what stands between prompts and targets by default; None: the texts decide.
    """

    def __init__(self, tokenizer: Any, joiner: str | None) -> None:
        self._tokenizer, self._joiner = tokenizer, joiner

    def scorer(self, joiners: Mapping[str, str]) -> Scorer:
        """Return a new scorer with these joiners, by prompt. A scorer keeps every text that it has encoded."""
        scorer = Scorer(self._tokenizer, joiner=self._joiner)
        scorer.use_joiners(joiners)
        return scorer

    def answered(self, model: Any, edits: Sequence[MeasuredEdit]) -> dict[str, bool]:
        """Return whether a model gives the target of each edit, teacher-forced, by the edit's id."""
        with internal_pass(model):
            answers = self._scorer_for(edits).forced(model, [(edit.prompt, edit.target) for edit in edits])
        return {edit.id: answer.exact for edit, answer in zip(edits, answers, strict=True)}

    def questions(self, edits: Sequence[MeasuredEdit]) -> list[EncodedPair]:
        """Return the prompt and the target of each edit as token ids."""
        scorer = self._scorer_for(edits)
        return [scorer.encode(edit.prompt, edit.target) for edit in edits]

    def texts(
        self, model: Any, edits: Sequence[MeasuredEdit], *, in_one_pass: bool
    ) -> tuple[list[str], dict[str, bool]]:
        """Return what a model generates after the prompt of each edit, and which edits are known to be answered by it.

        Args:
            model: the model.
            edits: the edits.
            in_one_pass: whether :func:`.text_with_answer` can run the model. It does so for a single edit; if it finds
                the target, :meth:`answered` need not ask for it.
        """
        if in_one_pass and len(edits) == 1 and (text := self._text_with_target(model, edits[0])) is not None:
            return [text], {edits[0].id: True}
        scorer = self._scorer_for(edits)
        lengths = [scorer.answer_tokens(edit.prompt, edit.target) + _FURTHER_TOKENS for edit in edits]
        with internal_pass(model):
            return scorer.generate(model, [edit.prompt for edit in edits], lengths), {}

    def _text_with_target(self, model: Any, edit: MeasuredEdit) -> str | None:
        """Return what a model generates after an edit's prompt; None if it does not give the target."""
        pair, context = self._scorer_for([edit]).encode(edit.prompt, edit.target), context_length(model)
        fits = context is None or pair.length + _FURTHER_TOKENS <= context
        if not fits or pair.prompt != encode_text(self._tokenizer, edit.prompt):
            return None
        ends = end_tokens(model, self._tokenizer)
        with internal_pass(model):
            tokens = text_with_answer(model, pair.prompt, pair.target, _FURTHER_TOKENS, ends)
        return None if tokens is None else text_before_end(self._tokenizer, tokens, ends)

    def _scorer_for(self, edits: Sequence[MeasuredEdit]) -> Scorer:
        """Return a scorer with the joiners of edits."""
        return self.scorer({edit.prompt: edit.joiner for edit in edits if edit.joiner is not None})
