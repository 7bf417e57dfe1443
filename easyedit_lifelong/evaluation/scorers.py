"""Scorers for encoder-decoder models and classifiers, which do not continue their prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.data.joiners import joiner_of, joiners_by_prompt, with_joiner
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.answer_count import AnswerCount
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer, forced_answer
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import IGNORED, EncodedPair, batches_by_length, pad_rows
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.padding import unpadded_groups
from easyedit_lifelong.models.pair_encoders import encoder_for, label_names


def scorer_for(model: Any, tokenizer: Any, joiner: str | None = None) -> Scorer:
    """Return the scorer for a model's kind: causal, encoder-decoder or classifier.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        joiner: what stands between prompts and answers; None: the texts decide.
    """
    scorers: dict[ModelKind, type[Scorer]] = {ModelKind.SEQ2SEQ: AnswerScorer, ModelKind.CLASSIFIER: LabelScorer}
    return scorers.get(kind_of(model), Scorer)(tokenizer, encode=encoder_for(model, tokenizer), joiner=joiner)


def requests_and_scorer(
    model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: Any
) -> tuple[list[EditRequest], Scorer]:
    """Return requests as a method edits them, and a scorer that asks them in the same form.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        requests: the requests.
        hparams: the method's hyperparameters, whose joiner the requests without their own get.
    """
    joiner = joiner_of(hparams)
    edited, scorer = with_joiner(requests, joiner), scorer_for(model, tokenizer, joiner)
    scorer.use_joiners(joiners_by_prompt(edited))
    return edited, scorer


class EncoderScorer(Scorer):
    """Scores models whose encoder reads the prompt, with padding on the right."""

    def _parts_of_batch(
        self, model: Any, rows: Sequence[Sequence[EncodedPair]]
    ) -> Iterator[Sequence[Sequence[EncodedPair]]]:
        for group in unpadded_groups(model, [len(row[0].prompt) for row in rows]):
            yield [rows[index] for index in group]


class AnswerScorer(EncoderScorer):
    """Scores encoder-decoder models: the encoder reads the prompt, the decoder writes the answer.

    The end token of an answer is not scored: otherwise a model would get a share of the score for it with any answer.
    """

    _side = "right"

    def _forced_batch(
        self, model: Any, rows: Sequence[Sequence[EncodedPair]], head: nn.Module | None
    ) -> Iterator[ForcedAnswer]:
        device = input_device(model)
        ids, mask = pad_rows([row[0].prompt for row in rows], self._pad, "right", device)
        answers, answer_mask = pad_rows([row[0].target for row in rows], self._pad, "right", device)
        starts = model.prepare_decoder_input_ids_from_labels(labels=answers.masked_fill(answer_mask == 0, IGNORED))
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=starts, use_cache=False).logits
        for row, questions in enumerate(rows):
            for pair in questions:
                answer = pair.target[: self._answer_length(pair)]
                yield forced_answer(logits[row, : len(answer)], answer)

    def answer_tokens(self, prompt: str, answer: str) -> int:
        """Return the number of an answer's tokens, without its end token."""
        return self._answer_length(self.encode(prompt, answer))

    def _answer_length(self, pair: EncodedPair) -> int:
        return len(pair.target) - (pair.target[-1] == self.tokenizer.eos_token_id)

    def _shared_context(self, model: Any) -> int | None:
        return None

    def _answer_column(self, ids: Tensor) -> int:
        return 1  # after the decoder's start token

    def _start_arguments(self, model: Any) -> dict[str, Any]:
        start = getattr(model.generation_config, "decoder_start_token_id", None)
        return {"decoder_start_token_id": model.config.decoder_start_token_id if start is None else start}


class LabelScorer(EncoderScorer):
    """Scores classifiers: the answer to a text is a label, and no text is generated."""

    generates_text = False

    def _forced_batch(
        self, model: Any, rows: Sequence[Sequence[EncodedPair]], head: nn.Module | None
    ) -> Iterator[ForcedAnswer]:
        ids, mask = pad_rows([row[0].prompt for row in rows], self._pad, "right", input_device(model))
        logits = model(input_ids=ids, attention_mask=mask).logits
        for row, questions in enumerate(rows):
            for pair in questions:
                yield forced_answer(logits[row].unsqueeze(0), pair.target)

    @torch.no_grad()
    def generate(
        self,
        model: Any,
        prompts: Sequence[str],
        new_tokens: Sequence[int] | int = 1,
        is_complete: Callable[[int, str], bool] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Return the name of the label that the model gives each prompt; the last three arguments have no effect."""
        names = label_names(model)
        rows = [self.encode(prompt, names[0]).prompt for prompt in prompts]
        labels, count = [""] * len(rows), AnswerCount(len(rows))
        with evaluating(model):
            for batch in batches_by_length([len(row) for row in rows], self.tokens_per_batch):
                for group in unpadded_groups(model, [len(rows[i]) for i in batch]):
                    part = [batch[i] for i in group]
                    ids, mask = pad_rows([rows[i] for i in part], self._pad, "right", input_device(model))
                    predicted = model(input_ids=ids, attention_mask=mask).logits.argmax(dim=-1)
                    for i, label in zip(part, predicted.tolist(), strict=True):
                        labels[i] = names[label]
                    count.add(len(part))
        return labels
