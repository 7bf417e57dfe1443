"""Scores of ordinary text: the fluency of a model's own text, and its perplexity on a held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.averages import Scores, gather
from easyedit_lifelong.evaluation.intervals import Interval
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.text import FLUENCY_TOKENS, HeldOutText, ngram_entropy, perplexity

FLUENT = 20
"""On how many requests' prompts fluency is measured."""


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
