"""The scorer: runs a model on many questions in batches, with teacher forcing or with generation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteriaList

from easyedit_lifelong.evaluation.answer_count import AnswerCount
from easyedit_lifelong.evaluation.stopping import StopEachRow, end_tokens, text_before_end
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer, forced_answer, key_of, shared_rows
from easyedit_lifelong.evaluation.tree_scoring import TreeScorer
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import EncodedPair, batches_by_length, encode_pair, encode_text, pad_rows
from easyedit_lifelong.models.greedy_rows import can_drop_rows, generate_rows
from easyedit_lifelong.models.linear import FewTokenLinears
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_lock import model_lock
from easyedit_lifelong.models.model_modes import bare_generation_config, evaluating
from easyedit_lifelong.models.padding import generation_groups
from easyedit_lifelong.models.pair_encoders import Encode
from easyedit_lifelong.models.partial_pass import head_at_positions
from easyedit_lifelong.models.prompt_positions import prompt_lengths


class Scorer:
    """Runs a model on questions, in batches of rows of similar length.

    An answer does not depend on the other rows of the batch or on the padding, whether the model is edited or not.
    Other threads that score or edit the model at the same time wait, since its mode, its generation configuration and
    the ``forward`` of some layers change while it is scored.

    Args:
        tokenizer: the model's tokenizer.
        tokens_per_batch: the largest number of tokens in a batch, with padding. In generation a batch has up to four
            times as many, since more rows cost little more per step.
        encode: encodes a prompt and its answer as token ids; by default as a causal language model reads them.
        marks_prompts: whether teacher-forced passes tell an edited model where each prompt ends. If not, they are plain
            passes over prompt and answer, such as evaluation harnesses make.
        joiner: what stands between prompts and answers; None: the texts decide. :meth:`use_joiners` sets the joiners of
            single prompts.

    Attributes:
        generates_text: whether the model generates text.
    """

    generates_text = True

    def __init__(
        self,
        tokenizer: Any,
        tokens_per_batch: int = 512,
        encode: Encode | None = None,
        *,
        marks_prompts: bool = True,
        joiner: str | None = None,
    ) -> None:
        self.tokenizer, self.tokens_per_batch, self.marks_prompts = tokenizer, tokens_per_batch, marks_prompts
        self._encode = encode or functools.partial(encode_pair, tokenizer)
        self._encoded: dict[tuple[str, str], EncodedPair] = {}
        self._joiner, self._joiners = joiner, dict[str, str]()

    def use_joiners(self, joiners: Mapping[str, str]) -> None:
        """Set what stands between single prompts and their answers, by prompt."""
        self._joiners.update(joiners)
        self._encoded.clear()

    def joiner_of(self, prompt: str) -> str | None:
        """Return what stands between a prompt and its answer; None if the texts decide."""
        return self._joiners.get(prompt, self._joiner)

    def encode(self, prompt: str, answer: str) -> EncodedPair:
        """Return the token ids of a question; they are cached."""
        key = (prompt, answer)
        if key not in self._encoded:
            self._encoded[key] = self._encode(prompt, answer, self.joiner_of(prompt))
        return self._encoded[key]

    @torch.no_grad()
    def forced(self, model: Any, questions: Sequence[tuple[str, str]]) -> list[ForcedAnswer]:
        """Return the model's teacher-forced answers to questions.

        A repeated question is scored once, and questions share a row where they can (:func:`shared_rows`). A model
        without hooks computes common beginnings of rows once (:class:`.TreeScorer`).

        Args:
            model: the model.
            questions: prompts with their answers.

        Returns:
            One teacher-forced answer for each question, in order.
        """
        pairs = [self.encode(prompt, answer) for prompt, answer in questions]
        rows = shared_rows(pairs)
        head, count = self._head(model), AnswerCount(sum(map(len, rows)))
        with model_lock(model), evaluating(model):
            trees = TreeScorer(model, head, self._pad, self.tokens_per_batch)
            answers, rows = trees.score(rows, count)
            for batch in batches_by_length([row[0].length for row in rows], self.tokens_per_batch):
                for part in self._parts_of_batch(model, [rows[i] for i in batch]):
                    keys = [key_of(pair) for row in part for pair in row]
                    answers.update(zip(keys, self._forced_batch(model, part, head), strict=True))
                    count.add(len(keys))
        return [answers[key_of(pair)] for pair in pairs]

    def _parts_of_batch(
        self, model: Any, rows: Sequence[Sequence[EncodedPair]]
    ) -> Iterator[Sequence[Sequence[EncodedPair]]]:
        """Yield the rows of a batch in parts that can be padded without an effect on the answers."""
        yield rows  # padding on the right has no effect on a causal model

    def _forced_batch(
        self, model: Any, rows: Sequence[Sequence[EncodedPair]], head: nn.Module | None
    ) -> Iterator[ForcedAnswer]:
        """Yield the teacher-forced answers of one batch.

        Args:
            model: the model.
            rows: the questions of each row (:func:`shared_rows`).
            head: the output head, to compute logits only where an answer's token is predicted; None to compute all.
        """
        pairs = [row[0] for row in rows]
        # Padding on the right: causal attention never sees it, and positions need no correction. A row's last token
        # is left out: it is predicted, but predicts nothing.
        ids, mask = pad_rows([pair.tokens[:-1] for pair in pairs], self._pad, "right", input_device(model))
        spans = [(row, len(pair.prompt) - 1, pair.target) for row, questions in enumerate(rows) for pair in questions]
        positions = [(row, begin + n) for row, begin, target in spans for n in range(len(target))]
        row_index, column_index = torch.tensor(positions).T
        only_answers = (
            contextlib.nullcontext()
            if head is None
            else head_at_positions(head, row_index, column_index, in_place=True)
        )
        lengths = [len(pair.prompt) for pair in pairs]
        marked = prompt_lengths(model, lengths) if self.marks_prompts else contextlib.nullcontext()
        with marked, only_answers:
            logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        answer_logits = logits[row_index.to(logits.device), column_index.to(logits.device)]
        split_logits = answer_logits.split([len(target) for *_, target in spans])
        for (_, _, target), target_logits in zip(spans, split_logits, strict=True):
            yield forced_answer(target_logits, target)

    @torch.no_grad()
    def generate(
        self,
        model: Any,
        prompts: Sequence[str],
        new_tokens: Sequence[int] | int,
        is_complete: Callable[[int, str], bool] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Generate a continuation of each prompt, greedily by default.

        Args:
            model: the model.
            prompts: the prompts.
            new_tokens: the largest number of new tokens, for all prompts or for each.
            is_complete: ``is_complete(index, text)`` returns whether generation for the prompt of this index can stop
                after this text; None to generate up to an end token or the limit.
            sampling: settings of sampling (``temperature``, ``top_p``, …), with PyTorch's generator; None for
                greedy text.

        Returns:
            The continuations, without the prompts and without special tokens.
        """
        limits = [new_tokens] * len(prompts) if isinstance(new_tokens, int) else list(new_tokens)
        encoded = [encode_text(self.tokenizer, prompt) for prompt in prompts]
        texts = [""] * len(prompts)
        context = self._shared_context(model)
        if context is not None:
            # Nothing is predicted after the last token, so n tokens need n - 1 positions after the prompt.
            limits = [min(limit, context + 1 - len(tokens)) for tokens, limit in zip(encoded, limits, strict=True)]
        ends, start_arguments = end_tokens(model, self.tokenizer), self._start_arguments(model)
        count = AnswerCount(len(prompts))
        drops_rows = is_complete is not None and sampling is None and can_drop_rows(model)
        with (
            model_lock(model),
            evaluating(model),
            bare_generation_config(model),
            FewTokenLinears.for_generation(model).active(),
        ):
            for batch in self._unpadded_batches(model, encoded, limits, context):
                ids, mask = pad_rows([encoded[index] for index in batch], self._pad, self._side, input_device(model))
                begin = self._answer_column(ids)
                stop = None
                if is_complete is not None:
                    stop = StopEachRow(self.tokenizer, begin, batch, limits, ends, is_complete)
                if drops_rows and stop is not None:
                    answers = generate_rows(model, ids, mask, stop.row_has_ended)
                else:
                    config = GenerationConfig(
                        max_new_tokens=max(limits[index] for index in batch),
                        do_sample=sampling is not None,
                        pad_token_id=self._pad,
                        eos_token_id=sorted(ends) or None,
                        **start_arguments,
                        **(sampling or {}),
                    )
                    criteria = {} if stop is None else {"stopping_criteria": StoppingCriteriaList([stop])}
                    output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **criteria)
                    answers = output[:, begin:].tolist()
                for row, (index, new) in enumerate(zip(batch, answers, strict=True)):
                    # A finished row is padded while other rows continue: cut the padding off.
                    length = limits[index] if stop is None else stop.lengths.get(row, limits[index])
                    texts[index] = text_before_end(self.tokenizer, new[:length], ends)
                count.add(len(batch))
        return texts

    def _head(self, model: Any) -> nn.Module | None:
        """Return the output head if logits can be computed at some positions only; None if they cannot."""
        anatomy = anatomy_of(model)
        return anatomy.head if anatomy is not None else None

    _side: Literal["left", "right"] = "left"
    """The padding side of prompts in generation."""

    def _shared_context(self, model: Any) -> int | None:
        """Return the limit of the total length of prompt and answer, in tokens; None if there is none."""
        return context_length(model)

    def _answer_column(self, ids: Tensor) -> int:
        """Return the column at which the new tokens begin in the output of ``generate``."""
        return ids.shape[1]

    def _start_arguments(self, model: Any) -> dict[str, Any]:
        """Return the settings of ``generate`` that name the first token of the decoder; none without a decoder."""
        return {}

    def _unpadded_batches(
        self, model: Any, encoded: Sequence[Sequence[int]], limits: Sequence[int], context: int | None
    ) -> Iterator[list[int]]:
        """Yield the batches of :meth:`_generation_batches`, divided where padding would change the answers."""
        for batch in self._generation_batches([len(tokens) for tokens in encoded], limits, context):
            for group in generation_groups(model, len(batch)):
                yield [batch[index] for index in group]

    def _generation_batches(
        self, lengths: Sequence[int], limits: Sequence[int], context: int | None
    ) -> Iterator[list[int]]:
        """Yield batches of prompts, as indices, in which the longest prompt and the longest answer fit the context.

        Args:
            lengths: the tokens of each prompt.
            limits: the largest number of new tokens for each prompt.
            context: the limit of the total length, if there is one.
        """
        total_lengths = [length + limit for length, limit in zip(lengths, limits, strict=True)]
        for batch in batches_by_length(total_lengths, 4 * self.tokens_per_batch):
            group: list[int] = []
            for index in batch:
                extended = [*group, index]
                width = max(lengths[i] for i in extended) + max(limits[i] for i in extended)
                if group and context is not None and width > context + 1:
                    yield group
                    group = []
                group.append(index)
            if group:
                yield group

    def answer_tokens(self, prompt: str, answer: str) -> int:
        """Return the number of an answer's tokens."""
        return len(self.encode(prompt, answer).target)

    @property
    def _pad(self) -> int:
        """The padding token; any token will do, since padding is masked."""
        return self.tokenizer.pad_token_id or 0
