"""Ask a model many questions in batches: its choices along an answer (teacher forcing), and its free text."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from easyedit_lifelong.evaluation.forced import Forced, PairKey, forced_of, key_of, shared_rows
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair, pad_rows
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modes import evaluating
from easyedit_lifelong.models.pairs import Encode
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from easyedit_lifelong.models.suffix import head_at


class Scorer:
    """Scores questions in batches of similar length.

    Neither the batch nor its padding changes an answer, edited model or not.

    Args:
        tokenizer: the model's.
        tokens_per_batch: how many tokens, padding included, are in one batch. When the model generates text, a batch
            has four times as many: a step costs little more for more rows.
        encode: turns prompts and answers into ids; by default as a causal language model reads them.

    Attributes:
        generates_text: whether the model generates text.
    """

    generates_text = True

    def __init__(self, tokenizer: Any, tokens_per_batch: int = 512, encode: Encode | None = None) -> None:
        self.tokenizer, self.tokens_per_batch = tokenizer, tokens_per_batch
        self._encode = encode or functools.partial(encode_pair, tokenizer)
        self._encoded: dict[tuple[str, str], EncodedPair] = {}

    def encode(self, prompt: str, answer: str) -> EncodedPair:
        """Return a question's tokens, encoding it once."""
        key = (prompt, answer)
        if key not in self._encoded:
            self._encoded[key] = self._encode(prompt, answer)
        return self._encoded[key]

    @torch.no_grad()
    def forced(self, model: Any, questions: Sequence[tuple[str, str]]) -> list[Forced]:
        """Score prompts with their answers under teacher forcing, in the order given.

        A question that is given twice is scored once. An answer of one token needs no separate row if
        another row has its prompt: the logits after the prompt are there.
        """
        pairs = [self.encode(prompt, answer) for prompt, answer in questions]
        rows = shared_rows(pairs)
        scores: dict[PairKey, Forced] = {}
        head = self._head(model)
        with evaluating(model):
            for batch in self._batches([row[0].length for row in rows]):
                together = [rows[i] for i in batch]
                keys = [key_of(pair) for row in together for pair in row]
                scores.update(zip(keys, self._force(model, together, head), strict=True))
        return [scores[key_of(pair)] for pair in pairs]

    def _force(self, model: Any, rows: Sequence[Sequence[EncodedPair]], head: nn.Module | None) -> Iterator[Forced]:
        pairs = [row[0] for row in rows]
        # Padding on the right: causal attention never sees it, and positions need no correction. The last token is
        # only ever predicted, never read.
        ids, mask = pad_rows([pair.tokens[:-1] for pair in pairs], self._pad, "right", input_device(model))
        spans = [(row, len(pair.prompt) - 1, pair.target) for row, several in enumerate(rows) for pair in several]
        at = [(row, begin + n) for row, begin, target in spans for n in range(len(target))]
        where = torch.tensor(at).T
        only_answers = contextlib.nullcontext() if head is None else head_at(head, where[0], where[1], in_place=True)
        with prompt_lengths(model, [len(pair.prompt) for pair in pairs]), only_answers:
            whole: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = whole[where[0].to(whole.device), where[1].to(whole.device)]
        for (_, _, target), at_answer in zip(spans, logits.split([len(target) for *_, target in spans]), strict=True):
            yield forced_of(at_answer, target)

    @torch.no_grad()
    def generate(
        self,
        model: Any,
        prompts: Sequence[str],
        new_tokens: Sequence[int] | int,
        ended: Callable[[int, str], bool] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Continue prompts: greedily by default.

        Args:
            model: the model.
            prompts: the prompts.
            new_tokens: how many tokens to add at most, for all or for each.
            ended: whether the prompt of this index needs no more than this text.
            sampling: settings of sampling (``temperature``, ``top_p``, …), with PyTorch's generator; None for
                greedy text.

        Returns:
            The continuations alone, special tokens left out.
        """
        limits = [new_tokens] * len(prompts) if isinstance(new_tokens, int) else list(new_tokens)
        rows = [list(self.tokenizer(prompt)["input_ids"]) for prompt in prompts]
        texts = [""] * len(prompts)
        context = self._shared_context(model)
        if context is not None:
            # Nothing is predicted after the last token, so n tokens need n - 1 positions after the prompt.
            limits = [min(limit, context + 1 - len(row)) for row, limit in zip(rows, limits, strict=True)]
        ends, start = self._end_tokens(model), self._start(model)
        with evaluating(model), _bare_generation_config(model):
            for batch in self._generation_batches([len(row) for row in rows], limits, context):
                ids, mask = pad_rows([rows[i] for i in batch], self._pad, self._side, input_device(model))
                config = GenerationConfig(
                    max_new_tokens=max(limits[i] for i in batch),
                    do_sample=sampling is not None,
                    pad_token_id=self._pad,
                    eos_token_id=sorted(ends) or None,
                    **start,
                    **(sampling or {}),
                )
                begin = self._answer_column(ids)
                stop = None if ended is None else _StopEachRow(self.tokenizer, begin, batch, limits, ends, ended)
                more = {} if stop is None else {"stopping_criteria": StoppingCriteriaList([stop])}
                output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **more)
                for n, (i, row) in enumerate(zip(batch, output[:, begin:].tolist(), strict=True)):
                    # A row that has ended is padded while others continue; the padding is no output.
                    added = row[: limits[i] if stop is None else stop.lengths.get(n, limits[i])]
                    end = next((n for n, token in enumerate(added) if token in ends), len(added))
                    texts[i] = self.tokenizer.decode(added[:end], skip_special_tokens=True)
        return texts

    def _head(self, model: Any) -> nn.Module | None:
        """Return the output head if it can be applied at the answers' positions alone."""
        anatomy = anatomy_of(model)
        return anatomy.head if anatomy is not None else None

    _side: Literal["left", "right"] = "left"

    def _shared_context(self, model: Any) -> int | None:
        """Return how many tokens prompt and answer may have together."""
        return context_length(model)

    def _answer_column(self, ids: Tensor) -> int:
        """Return where the answer begins in what ``generate`` returns."""
        return ids.shape[1]

    def _start(self, model: Any) -> dict[str, Any]:
        """Return the arguments of ``generate`` that say how an answer starts."""
        return {}

    def _end_tokens(self, model: Any) -> set[int]:
        eos = getattr(model.generation_config, "eos_token_id", None)
        eos = self.tokenizer.eos_token_id if eos is None else eos
        return {token for token in (eos if isinstance(eos, (list, tuple)) else [eos]) if token is not None}

    def _generation_batches(
        self, lengths: Sequence[int], limits: Sequence[int], context: int | None
    ) -> Iterator[list[int]]:
        """Group prompts so that, run together for the longest answer, all stay inside the context."""
        whole = [a + b for a, b in zip(lengths, limits, strict=True)]
        for batch in self._batches(whole, 4 * self.tokens_per_batch):
            group: list[int] = []
            for index in batch:
                more = [*group, index]
                width = max(lengths[i] for i in more) + max(limits[i] for i in more)
                if group and context is not None and width > context + 1:
                    yield group
                    group = []
                group.append(index)
            if group:
                yield group

    def answer_tokens(self, prompt: str, answer: str) -> int:
        """Count an answer's tokens."""
        return len(self.encode(prompt, answer).target)

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _batches(self, lengths: Sequence[int], most: int | None = None) -> Iterator[list[int]]:
        """Group indices so that similar lengths go together."""
        most = self.tokens_per_batch if most is None else most
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
            if batch and lengths[batch[0]] * (len(batch) + 1) > most:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


def input_device(model: Any) -> torch.device:
    """Return where a model takes its tokens."""
    return device_of(model.get_input_embeddings())


class _StopEachRow(StoppingCriteria):
    """Ends each row of a batch by its own text.

    Args:
        tokenizer: the model's.
        begin: column of the batch at which the new text begins.
        batch: the prompt's index of each row.
        limits: by prompt, how many tokens are added at most.
        ends: tokens that end a text.
        ended: whether the prompt of this index needs no more than this text.

    Attributes:
        lengths: by row that has ended, how many tokens were added until then.
    """

    def __init__(
        self,
        tokenizer: Any,
        begin: int,
        batch: Sequence[int],
        limits: Sequence[int],
        ends: set[int],
        ended: Callable[[int, str], bool],
    ) -> None:
        self.tokenizer, self.begin, self.batch = tokenizer, begin, batch
        self.limits, self.ends, self.ended = limits, ends, ended
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        outputs = input_ids[:, self.begin :].tolist()
        for row, (index, tokens) in enumerate(zip(self.batch, outputs, strict=True)):
            if row not in self.lengths and (
                len(tokens) >= self.limits[index]
                or tokens[-1] in self.ends
                or self.ended(index, self.tokenizer.decode(tokens, skip_special_tokens=True))
            ):
                self.lengths[row] = len(tokens)
        done = [row in self.lengths for row in range(len(self.batch))]
        return torch.tensor(done, device=input_ids.device)


@contextlib.contextmanager
def _bare_generation_config(model: Any) -> Iterator[None]:
    """Set the model's own generation settings aside inside.

    A checkpoint's repetition penalty, beams or suppressed tokens would supply whatever the
    configuration given to ``generate`` leaves open, and greedy text would not be greedy.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
