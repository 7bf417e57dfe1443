"""Scores of ordinary text: the fluency of generated text, and the perplexity of a held-out text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.averages import Scores, averages_with_intervals
from easyedit_lifelong.evaluation.intervals import Interval
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.perplexity import bounded_perplexity
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import beginning_of_text, encode_text, pad_rows
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.paths import expanded_path

FLUENCY_PROMPTS = 20
"""The number of requests whose prompts are continued to measure fluency."""
FLUENCY_TOKENS = 100
"""The length of a text whose fluency is measured, with its prompt, as in ROME's evaluation."""
WINDOW = 256
"""The number of tokens in a window of a held-out text."""
WINDOWS = 16
"""The largest number of windows that are read of a held-out text."""


_NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""The weight of each n in the n-gram entropy, as in ROME's evaluation."""


def ngram_entropy(text: str) -> float | None:
    """Return the mean of the entropies of a text's bigrams and trigrams, weighted 2/3 and 4/3, in bits.

    A text that repeats itself has a low entropy. Words and punctuation marks count as tokens.

    Returns:
        The entropy; None if the text has fewer than three tokens.
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    if len(tokens) < max(_NGRAM_WEIGHTS):
        return None
    return sum(weight * _entropy(tokens, n) for n, weight in _NGRAM_WEIGHTS.items()) / len(_NGRAM_WEIGHTS)


def _entropy(tokens: Sequence[str], n: int) -> float:
    """Return the entropy of the distribution of a text's n-grams, in bits."""
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def read_text(path: Path | str) -> str:
    """Read a held-out text.

    Raises:
        DataError: the file can't be read, or is empty.
    """
    path = expanded_path(path, DataError)
    try:
        text = path.read_bytes().decode()  # unlike read_text, this does not change line ends
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise DataError(f"{path}: is empty; perplexity needs a text")
    return text


class HeldOutText:
    """A held-out text, divided into windows of tokens.

    Each window begins with the beginning-of-text token if the tokenizer adds one: models that were trained with it
    (Gemma, Llama) predict badly without it.

    Args:
        text: the text; what exceeds the windows is ignored.
        tokenizer: the model's tokenizer.
        model: the model, for the length of its context.
        window: the number of tokens in a window, without the beginning-of-text token.
        windows: the largest number of windows.

    Attributes:
        rows: the tokens of each window, without the beginning-of-text token.

    Raises:
        DataError: the text has fewer than two tokens, or the model is not a causal language model.
    """

    def __init__(self, text: str, tokenizer: Any, model: Any, *, window: int = WINDOW, windows: int = WINDOWS) -> None:
        if kind_of(model) is not ModelKind.CAUSAL:
            raise DataError(
                f"the perplexity of a text needs a causal language model; {type(model).__name__} is a "
                f"{kind_of(model).value}. Leave the held-out text out."
            )
        self._beginning = beginning_of_text(tokenizer)
        context = context_length(model)
        window = window if context is None else min(window, context - len(self._beginning))
        # 16 characters per token are more than enough: a long text need not be encoded to its end.
        ids = list(tokenizer(text[: window * windows * 16], add_special_tokens=False)["input_ids"])
        rows = [ids[begin : begin + window] for begin in range(0, min(len(ids), window * windows), window)]
        self.rows = [row for row in rows if len(row) > 1]
        if not self.rows:
            raise DataError("the held-out text has fewer than two tokens; perplexity needs more")

    @torch.no_grad()
    def nll(self, model: Any) -> list[list[float]]:
        """Return the negative log-likelihood of each token of each window except the window's first, in nats.

        Nothing marks a prompt in a window. So edits that act at a prompt's last token (GRACE) act wherever the text up
        to a token matches a key.
        """
        device = input_device(model)
        by_window = []
        with evaluating(model):
            for row in self.rows:
                ids, mask = pad_rows([self._beginning + row], 0, "right", device)
                first = len(self._beginning)
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, first:-1].float()
                labels = ids[0, first + 1 :].to(logits.device)
                by_window.append(F.cross_entropy(logits, labels, reduction="none").tolist())
        return by_window


def perplexity(nll: Sequence[Sequence[float]]) -> float | None:
    """Return exp(mean negative log-likelihood per token) of windows of tokens; None if there are no tokens."""
    average = mean(value for row in nll for value in row)
    return None if average is None else bounded_perplexity(average)


class TextScores:
    """Scores ordinary text: fluency and perplexity. Without a held-out text, there are no scores.

    Args:
        scorer: the scorer that generates text.
        model: the unedited model.
        requests: the requests whose prompts are continued to measure fluency; without requests, it isn't measured.
        text: the held-out text; None for none.

    Attributes:
        unedited: the scores of the unedited model.

    Raises:
        DataError: the held-out text is too short, or the model is not a causal language model.
    """

    def __init__(self, scorer: Scorer, model: Any, requests: Sequence[EditRequest], text: str | None) -> None:
        self._scorer = scorer
        self._text = None if text is None else HeldOutText(text, scorer.tokenizer, model)
        self._prompts = [] if text is None else [request.prompt for request in sample_of(requests, FLUENCY_PROMPTS)]
        self.unedited = self.fluency(model) | self.perplexity(model)

    def fluency(self, model: Any) -> Scores:
        """Return the mean n-gram entropy of greedy continuations of the prompts; nothing without prompts."""
        if not self._prompts:
            return Scores()
        lengths = [len(encode_text(self._scorer.tokenizer, prompt)) for prompt in self._prompts]
        limits = [max(1, FLUENCY_TOKENS - length) for length in lengths]
        outputs = self._scorer.generate(model, self._prompts, limits)
        entropies = [ngram_entropy(f"{prompt} {text}") for prompt, text in zip(self._prompts, outputs, strict=True)]
        return averages_with_intervals([{"fluency": [entropy]} for entropy in entropies if entropy is not None])

    def perplexity(self, model: Any) -> Scores:
        """Return the held-out text's perplexity; its interval is the exponential of that of the mean over windows."""
        if self._text is None:
            return Scores()
        name = "text_perplexity"
        nll_by_window = self._text.nll(model)
        value = perplexity(nll_by_window)
        if value is None:
            return Scores()
        nll_interval = averages_with_intervals([{name: nll} for nll in nll_by_window]).intervals.get(name)
        if nll_interval is None:
            return Scores({name: value})
        interval = Interval(bounded_perplexity(nll_interval.low), bounded_perplexity(nll_interval.high))
        return Scores({name: value}, {name: interval})
