"""Ask a model many questions at once: what it says when forced along an answer, and when free."""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair, pad_rows
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modes import evaluating
from easyedit_lifelong.models.pairs import Encode
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from easyedit_lifelong.models.suffix import head_at


@dataclass(frozen=True)
class Forced:
    """A model's choices along a given answer (teacher forcing).

    Attributes:
        chosen: the model's most probable token at each of the answer's positions.
        target: the answer's tokens.
        nll: mean negative log-likelihood of the answer, in nats per token.
    """

    chosen: tuple[int, ...]
    target: tuple[int, ...]
    nll: float

    @property
    def accuracy(self) -> float:
        """Share of the answer's tokens that the model would choose itself."""
        return sum(c == t for c, t in zip(self.chosen, self.target, strict=True)) / len(self.target)

    @property
    def exact(self) -> bool:
        """Whether it would choose every one of them."""
        return self.chosen == self.target

    def agreement(self, other: Forced) -> float:
        """Share of positions at which two models choose the same token (locality)."""
        return sum(a == b for a, b in zip(self.chosen, other.chosen, strict=True)) / len(self.chosen)


class Scorer:
    """Scores questions in batches of similar length.

    Neither the batch nor its padding changes an answer, edited model or not.

    Args:
        tokenizer: the model's.
        tokens_per_batch: how many tokens, padding included, go through the model together. Where it writes one
            token after the other, rows hold four times as many: a step costs little more for more rows.
        encode: turns prompts and answers into ids; by default as a causal language model reads them.

    Attributes:
        speaks: whether the model writes text of its own.
    """

    speaks = True

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

        A question that is asked twice is answered once. An answer of one token needs no row of its own
        where its prompt is asked about with another answer: what the model says behind the prompt is there.
        """
        pairs = [self.encode(prompt, answer) for prompt, answer in questions]
        rows = _rows(pairs)
        scores: dict[_Key, Forced] = {}
        head = self._head(model)
        with evaluating(model):
            for batch in self._batches([row[0].length for row in rows]):
                asked = [rows[i] for i in batch]
                scores.update(
                    zip((_key(pair) for row in asked for pair in row), self._force(model, asked, head), strict=True)
                )
        return [scores[_key(pair)] for pair in pairs]

    def _force(self, model: Any, rows: Sequence[Sequence[EncodedPair]], head: nn.Module | None) -> Iterator[Forced]:
        pairs = [row[0] for row in rows]
        # Padding on the right: causal attention never sees it, and positions need no correction. The last token is
        # only ever predicted, never read.
        ids, mask = pad_rows([pair.tokens[:-1] for pair in pairs], self._pad, "right", input_device(model))
        spans = [(row, len(pair.prompt) - 1, pair.target) for row, several in enumerate(rows) for pair in several]
        at = [(row, begin + n) for row, begin, target in spans for n in range(len(target))]
        where = torch.tensor(at).T
        with prompt_lengths(model, [len(pair.prompt) for pair in pairs]):
            at_answers = (
                head_at(head, where[0], where[1], in_place=True) if head is not None else contextlib.nullcontext()
            )
            with at_answers:
                whole: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = whole[where[0].to(whole.device), where[1].to(whole.device)]
        taken = 0
        for _, _, target in spans:
            yield forced_of(logits[taken : taken + len(target)], target)
            taken += len(target)

    @torch.no_grad()
    def generate(
        self, model: Any, prompts: Sequence[str], new_tokens: Sequence[int] | int,
        ended: Callable[[int, str], bool] | None = None, sampling: Mapping[str, Any] | None = None,
    ) -> list[str]:  # fmt: skip
        """Let the model continue prompts greedily, unless told to sample.

        Args:
            model: the model.
            prompts: what it continues.
            new_tokens: how many tokens to add at most, for all or for each.
            ended: whether the prompt of this index has been answered with this text, and no more is needed.
            sampling: how text is sampled (``temperature``, ``top_p``, …), by PyTorch's generator.

        Returns:
            The continuations alone, special tokens left out.
        """
        limits = [new_tokens] * len(prompts) if isinstance(new_tokens, int) else list(new_tokens)
        rows = [list(self.tokenizer(prompt)["input_ids"]) for prompt in prompts]
        texts = [""] * len(prompts)
        context = self._shared_context(model)
        if context is not None:
            # Without a prediction for the last token, n tokens need n - 1 places behind the prompt.
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
                stop = None if ended is None else _Stop(self.tokenizer, begin, batch, limits, ends, ended)
                more = {} if stop is None else {"stopping_criteria": StoppingCriteriaList([stop])}
                output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **more)
                for n, (i, row) in enumerate(zip(batch, output[:, begin:].tolist(), strict=True)):
                    # Once a row has ended it is filled up while others go on; the filling wasn't said.
                    said = row[: limits[i] if stop is None else stop.lengths.get(n, limits[i])]
                    end = next((n for n, token in enumerate(said) if token in ends), len(said))
                    texts[i] = self.tokenizer.decode(said[:end], skip_special_tokens=True)
        return texts

    def _head(self, model: Any) -> nn.Module | None:
        """Return the output head, where the model lets it be asked at the answers' positions alone."""
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
        """Return what ``generate`` has to know of how an answer starts."""
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


_Key = tuple[tuple[int, ...], tuple[int, ...]]


def _key(pair: EncodedPair) -> _Key:
    return tuple(pair.prompt), tuple(pair.target)


def _rows(pairs: Sequence[EncodedPair]) -> list[list[EncodedPair]]:
    """Return what goes through the model: each row's own question first, then those that it answers, too."""
    by_prompt: dict[tuple[int, ...], dict[_Key, EncodedPair]] = {}
    for pair in pairs:
        by_prompt.setdefault(tuple(pair.prompt), {}).setdefault(_key(pair), pair)
    rows = []
    for several in by_prompt.values():
        # The shortest row of several tokens carries those of one; a sort keeps equals in their order.
        long = sorted((p for p in several.values() if len(p.target) > 1), key=lambda p: len(p.target))
        short = [p for p in several.values() if len(p.target) == 1]
        rows += [[pair] for pair in long[1:]]
        rows.append([*long[:1], *short])
    return rows


class _Stop(StoppingCriteria):
    """Ends each row of a batch by its own text.

    Attributes:
        lengths: how many tokens each row had been given when it ended.
    """

    def __init__(
        self, tokenizer: Any, begin: int, batch: Sequence[int], limits: Sequence[int], ends: set[int],
        ended: Callable[[int, str], bool],
    ) -> None:  # fmt: skip
        self.tokenizer, self.begin, self.batch = tokenizer, begin, batch
        self.limits, self.ends, self.ended = limits, ends, ended
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        said = input_ids[:, self.begin :].tolist()
        for row, (index, tokens) in enumerate(zip(self.batch, said, strict=True)):
            if row not in self.lengths and (
                len(tokens) >= self.limits[index]
                or tokens[-1] in self.ends
                or self.ended(index, self.tokenizer.decode(tokens, skip_special_tokens=True))
            ):
                self.lengths[row] = len(tokens)
        done = [row in self.lengths for row in range(len(self.batch))]
        return torch.tensor(done, device=input_ids.device)


def forced_of(logits: Tensor, target: Sequence[int]) -> Forced:
    """Return a model's choices along an answer, given its logits there, ``(answer, vocabulary)``."""
    logits = logits.float()
    wanted = torch.tensor(list(target), device=logits.device)
    return Forced(tuple(logits.argmax(dim=-1).tolist()), tuple(target), F.cross_entropy(logits, wanted).item())


def starts_with_answer(text: str, answer: str) -> bool:
    """Whether a free generation begins with the answer (leading space apart)."""
    return text.lstrip().startswith(answer.strip())


def starts_with_whole_answer(text: str, answer: str) -> bool:
    """Whether it does, and the answer's last word or number ends there ("Paris", not "Parisian").

    Where words aren't set apart by spaces (Chinese, Japanese, Thai …), anything may follow.
    """
    answer = answer.strip()
    behind = text.lstrip()[len(answer) :]
    if not starts_with_answer(text, answer):
        return False
    if answer[-1:].isdigit() and re.match(r"[.,]?\d", behind):
        return False
    return not (_ends_a_word(answer[-1:]) and behind[:1].isalnum())


def _ends_a_word(character: str) -> bool:
    # Letters without case ("Lo") are those of scripts that mostly run words together.
    return character.isalnum() and unicodedata.category(character) != "Lo"


@contextlib.contextmanager
def _bare_generation_config(model: Any) -> Iterator[None]:
    """Set the model's own generation settings aside inside.

    A checkpoint's repetition penalty, beams or suppressed tokens would fill in whatever the
    configuration given to ``generate`` leaves open, and greedy text would not be greedy.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def input_device(model: Any) -> torch.device:
    """Return where a model takes its tokens."""
    return device_of(model.get_input_embeddings())
