"""Causal tracing of one fact (Meng et al. 2022, section 2): effects of restored states on a corrupted prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.locate.baseline_runs import BaselineRuns, run_baselines
from easyedit_lifelong.locate.corruption import Corruption, GaussianNoise, subject_embedding_deviation
from easyedit_lifelong.locate.known_facts import EncodedFact, KnownFact, encode_known_fact
from easyedit_lifelong.locate.restorations import (
    KINDS,
    MODULES,
    Kind,
    Module,
    Restoration,
    restored_state,
    restored_window,
    severed_state,
)
from easyedit_lifelong.locate.restored_passes import RestoredPasses, answer_probabilities
from easyedit_lifelong.locate.sites import Sites
from easyedit_lifelong.locate.trace_settings import NOISE_FACTOR
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.runner import Runner


@dataclass(frozen=True)
class FactTrace:
    """The causal trace of one fact. All scores are probabilities of the first token of the answer.

    Attributes:
        fact: the fact.
        tokens: text of each token of the prompt.
        subject: the subject's tokens: index of the first, and of the one after the last.
        answer: text of the first token of the answer.
        high: P[o], the probability in the clean run.
        low: P*[o], the mean probability in the corrupted runs.
        scores: P*,clean[o] for each restored token and layer, by kind, shape ``(tokens, layers)``. Of ``mlp`` and
            ``attention``, the layer is the centre of the restored window.
        severed: P*,clean[o] for the restored state of the subject's last token at each layer, while the outputs of
            the modules above it are frozen at that token, by module, shape ``(layers,)``.
    """

    fact: KnownFact
    tokens: list[str]
    subject: tuple[int, int]
    answer: str
    high: float
    low: float
    scores: Mapping[Kind, Tensor]
    severed: Mapping[Module, Tensor] = field(default_factory=dict)

    @property
    def total_effect(self) -> float:
        """TE = P[o] - P*[o]."""
        return self.high - self.low

    def indirect_effects(self, kind: Kind = "state") -> Tensor:
        """Return IE = P*,clean[o] - P*[o] for each restored token and layer, shape ``(tokens, layers)``."""
        return self.scores[kind] - self.low

    def severed_effects(self, module: Module) -> Tensor:
        """Return P*,clean[o] - P*[o] with severed paths, shape ``(layers,)``."""
        return self.severed[module] - self.low


class Tracer:
    """Traces facts in one model.

    Args:
        model: a causal language model, edited or not.
        tokenizer: its tokenizer.
        corruption: corrupts the subject's embeddings.
        kinds: what to restore.
        severed: the modules to freeze in runs with severed paths.
        window: number of blocks whose MLPs or attention are restored together.
        tokens_per_pass: largest number of tokens in one pass; None for a default that suits the device.

    Raises:
        ModelError: the model has no blocks, or their MLPs or attention aren't found.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        corruption: Corruption,
        *,
        kinds: Sequence[Kind] = KINDS,
        severed: Sequence[Module] = MODULES,
        window: int = 10,
        tokens_per_pass: int | None = None,
    ) -> None:
        self._runner = Runner(model, tokenizer)
        self._sites = Sites(self._runner.model)
        self._corruption, self._kinds, self._severed, self._window = corruption, kinds, severed, window
        restored: list[Module] = [kind for kind in kinds if kind != "state"]
        self._modules: list[Module] = list(dict.fromkeys([*restored, *severed]))
        for kind in self._modules:
            self._sites.modules(kind)
        self._passes = RestoredPasses(self._runner, self._sites, tokens_per_pass)

    @torch.no_grad()
    def prediction(self, encoded: EncodedFact) -> str | None:
        """Return the model's most likely tokens in place of the answer; None if they are the answer.

        The tokens of the answer are predicted with the correct tokens before them.
        """
        row = torch.tensor([encoded.prompt + encoded.answer[:-1]], device=self._runner.device)
        with evaluating(self._runner.model):
            length = [len(encoded.prompt)]
            logits = self._runner.call(row, torch.ones_like(row), length, keep=len(encoded.answer))
        predicted = logits[0, -len(encoded.answer) :].argmax(dim=-1).tolist()
        return None if predicted == encoded.answer else self._text(predicted)

    def trace(self, encoded: EncodedFact) -> FactTrace:
        """Trace a fact.

        Raises:
            DataError: the subject can't be corrupted.
            ModelError: passes over a part of the model do not give the logits of a full pass.
        """
        with evaluating(self._runner.model):
            runs = run_baselines(self._runner, self._sites, encoded, self._corruption, self._modules)
            answer = encoded.answer[0]
            each = answer_probabilities(runs.logits, answer).double().cpu()
            high, low = float(each[0]), float(each[1:].mean())
            scores = {kind: self._scores(runs, kind, high, low) for kind in self._kinds}
            severed = {module: self._severed_scores(runs, module, low) for module in self._severed}
        tokens = [self._text([token]) for token in encoded.prompt]
        return FactTrace(encoded.fact, tokens, encoded.subject, self._text([answer]), high, low, scores, severed)

    def _scores(self, runs: BaselineRuns, kind: Kind, high: float, low: float) -> Tensor:
        """Return the scores of one kind, shape ``(tokens, layers)``.

        A token before the subject is the same in clean and corrupted runs, so restoring it changes nothing.
        """
        n_layers, begin = len(self._sites.blocks), runs.fact.subject[0]
        restorations = [
            restored_state(token, layer)
            if kind == "state"
            else restored_window(token, layer, kind, self._window, n_layers)
            for token in range(begin, runs.n_tokens)
            for layer in range(n_layers)
        ]
        scores = torch.full((runs.n_tokens, n_layers), low, dtype=torch.float64)
        scores[begin:] = self._probabilities(runs, restorations, high, low).view(-1, n_layers)
        return scores

    def _severed_scores(self, runs: BaselineRuns, module: Module, low: float) -> Tensor:
        """Return the scores with severed paths at the subject's last token, shape ``(layers,)``."""
        n_layers, token = len(self._sites.blocks), runs.fact.subject[1] - 1
        restorations = [severed_state(token, layer, module, n_layers) for layer in range(n_layers)]
        return self._probabilities(runs, restorations, float("nan"), low)

    def _probabilities(
        self, runs: BaselineRuns, restorations: Sequence[Restoration], high: float, low: float
    ) -> Tensor:
        """Return the probability of the answer for each restoration, shape ``(restorations,)``.

        The output of the last block is read at the last token only. Restored there, it gives the clean probability.
        """
        n_layers, last = len(self._sites.blocks), runs.n_tokens - 1
        result = torch.tensor([high if r.token == last else low for r in restorations], dtype=torch.float64)
        computed = [index for index, restoration in enumerate(restorations) if restoration.first < n_layers]
        to_compute = [restorations[index] for index in computed]
        result[computed] = self._passes.probabilities(runs, to_compute, runs.fact.answer[0])
        return result

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._runner.tokenizer.decode(ids))


def trace_fact(
    model: Any,
    tokenizer: Any,
    prompt: str,
    subject: str,
    answer: str,
    *,
    noise: float | None = None,
    samples: int = 10,
    seed: int = 1,
    kinds: Sequence[Kind] = KINDS,
    severed: Sequence[Module] = MODULES,
    window: int = 10,
) -> FactTrace:
    """Trace where a model keeps a fact (Meng et al. 2022, section 2).

    The model runs on the prompt (clean run), on the prompt with noise on the subject's embeddings (corrupted runs),
    and on the corrupted prompt with the clean state of one token at one layer (restored runs). The indirect effect of
    that state is IE = P*,clean[o] - P*[o]; the total effect is TE = P[o] - P*[o]; o is the first token of the answer.

    Args:
        model: a causal language model, edited or not.
        tokenizer: its tokenizer.
        prompt: the text that the model continues with the answer.
        subject: the words of the prompt that name the entity.
        answer: the answer.
        noise: standard deviation of the noise; None for three times that of the embeddings of the subject's tokens.
        samples: number of corrupted runs.
        seed: seed of the noise.
        kinds: what to restore: ``state`` (the output of a block), ``mlp`` and ``attention`` (their outputs in
            ``window`` blocks).
        severed: the modules to freeze in runs with severed paths: ``mlp``, ``attention``.
        window: number of blocks whose MLPs or attention are restored together.

    Raises:
        DataError: the prompt does not contain the subject.
        ModelError: the model can't be traced.
    """
    encoded = encode_known_fact(tokenizer, KnownFact(0, prompt, subject, answer))
    if noise is None:
        embed = Runner(model, tokenizer).model.get_input_embeddings()
        noise = NOISE_FACTOR * subject_embedding_deviation(tokenizer, embed, [subject])
    if samples < 1 or window < 1 or noise < 0:
        raise DataError("samples and window must be at least 1, and noise at least 0")
    corruption = GaussianNoise(noise, samples, seed)
    return Tracer(model, tokenizer, corruption, kinds=kinds, severed=severed, window=window).trace(encoded)
