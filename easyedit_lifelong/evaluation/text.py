"""Scores of ordinary text: the fluency of a model's own text, and its perplexity on a held-out text."""

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
from easyedit_lifelong.evaluation.averages import Scores, gather
from easyedit_lifelong.evaluation.intervals import Interval
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modes import evaluating

FLUENT = 20
"""On how many requests' prompts fluency is measured."""
FLUENCY_TOKENS = 100
"""Length of a text whose fluency is measured, its prompt included: ROME's."""
WINDOW = 256
WINDOWS = 16
"""How much of a held-out text is read: at most so many windows of so many tokens."""

_MOST = 50.0
"""Nats per token above which a perplexity has no further meaning."""

_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def ngram_entropy(text: str) -> float | None:
    """Return the mean of the entropies of a text's bigrams and trigrams, weighted 2/3 and 4/3, in bits.

    Text that repeats itself has little. Words and punctuation marks count as tokens.

    Returns:
        The entropy; None if the text is too short to hold a trigram.
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    if len(tokens) < max(_WEIGHTS):
        return None
    return sum(weight * _entropy(tokens, n) for n, weight in _WEIGHTS.items()) / len(_WEIGHTS)


def _entropy(tokens: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def read_text(path: Path | str) -> str:
    """Read a held-out text.

    Raises:
        DataError: the file can't be read, or is empty.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_bytes().decode()  # line ends as they are: read_text would change them
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise DataError(f"{path}: is empty; perplexity needs a text")
    return text


class HeldOutText:
    """A text that no edit is about, cut into windows.

    Args:
        text: the text; its beginning is read.
        tokenizer: the model's.
        model: the model, for its context.
        window: tokens per window.
        windows: how many windows at most.

    Raises:
        DataError: it has no two tokens, or the model isn't a causal language model.
    """

    def __init__(self, text: str, tokenizer: Any, model: Any, *, window: int = WINDOW, windows: int = WINDOWS) -> None:
        if kind_of(model) is not Kind.CAUSAL:
            raise DataError(
                f"the perplexity of a text is a causal language model's; {type(model).__name__} is a "
                f"{kind_of(model).value}. Leave the held-out text out."
            )
        window = min(window, context_length(model) or window)
        # Tokens are a few characters long: no need to encode a whole corpus for its beginning.
        ids = list(tokenizer(text[: window * windows * 16], add_special_tokens=False)["input_ids"])
        rows = [ids[begin : begin + window] for begin in range(0, min(len(ids), window * windows), window)]
        self.rows = [row for row in rows if len(row) > 1]
        if not self.rows:
            raise DataError("the held-out text has fewer than two tokens; perplexity needs more")

    @torch.no_grad()
    def nll(self, model: Any) -> list[list[float]]:
        """Return the negative log-likelihood of every token but the first, window by window, in nats.

        A window is read as one prompt. An edit that acts only at a prompt's end (GRACE) hardly shows in it; an
        edit of the weights does.
        """
        device = device_of(model.get_input_embeddings())
        read = []
        with evaluating(model):
            for row in self.rows:
                ids, mask = pad_rows([row], 0, "right", device)
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, :-1].float()
                read.append(F.cross_entropy(logits, ids[0, 1:].to(logits.device), reduction="none").tolist())
        return read


def perplexity(nll: Sequence[Sequence[float]]) -> float | None:
    """Return exp(mean negative log-likelihood per token) of windows of tokens; None of nothing."""
    average = mean(value for row in nll for value in row)
    return None if average is None else bounded_perplexity(average)


def bounded_perplexity(nll: float) -> float:
    """Return exp(nll), nats per token; 5e21 stands for anything above it, so that averages stay finite."""
    return math.exp(min(nll, _MOST)) if math.isfinite(nll) else math.exp(_MOST)


class TextScores:
    """Scores a model's ordinary text; without a held-out text, there are no scores.

    Args:
        scorer: generates text.
        model: the model, before any edit of this run.
        requests: the requests from whose prompts text is generated.
        text: the held-out text; None for none.

    Attributes:
        unedited: the scores of the unedited model.

    Raises:
        DataError: the held-out text is too short.
    """

    def __init__(self, scorer: Scorer, model: Any, requests: Sequence[EditRequest], text: str | None) -> None:
        self._scorer = scorer
        self._text = None if text is None else HeldOutText(text, scorer.tokenizer, model)
        self._prompts = [] if text is None else [request.prompt for request in sample_of(requests, FLUENT)]
        self.unedited = self.fluency(model) | self.perplexity(model)

    def fluency(self, model: Any) -> Scores:
        """Return the n-gram entropy of the model's own text."""
        lengths = [len(self._scorer.tokenizer(prompt)["input_ids"]) for prompt in self._prompts]
        limits = [max(1, FLUENCY_TOKENS - length) for length in lengths]
        outputs = self._scorer.generate(model, self._prompts, limits)
        entropies = [ngram_entropy(f"{prompt} {text}") for prompt, text in zip(self._prompts, outputs, strict=True)]
        return gather([{"fluency": [entropy]} for entropy in entropies if entropy is not None])

    def perplexity(self, model: Any) -> Scores:
        """Return the held-out text's perplexity; its interval is that of the mean log-likelihood over windows."""
        name, nll = "text_perplexity", self._text.nll(model) if self._text else []
        value = perplexity(nll)
        if value is None:
            return Scores()
        ends = gather([{name: window} for window in nll]).intervals.get(name)
        interval = {} if ends is None else {name: Interval(*(perplexity([[end]]) or 0.0 for end in ends))}
        return Scores({name: value}, interval)
