"""Scores of a stream of edits, each against what the unedited model said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.averages import RequestScores, Scores, averages, gather
from easyedit_lifelong.evaluation.generated import (
    ANSWER_TOKENS,
    Generation,
    contains_match,
    exact_match,
    natural_answer,
    natural_end,
    token_f1,
)
from easyedit_lifelong.evaluation.intervals import Interval
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scorer import Forced, Scorer, starts_with_answer, starts_with_whole_answer
from easyedit_lifelong.evaluation.success import SCORE, SUCCESS, contests, success_scores
from easyedit_lifelong.evaluation.tasks import task_named
from easyedit_lifelong.evaluation.text import FLUENCY_TOKENS, HeldOutText, ngram_entropy, perplexity

__all__ = ["Question", "Questions", "RequestScores", "Scoreboard", "averages"]

Question = tuple[str, str]

FLUENT = 20
"""On how many requests' prompts fluency is measured."""


@dataclass
class Questions:
    """What is asked about some requests: the questions of each kind, and whose they are."""

    edit: list[Question] = field(default_factory=list)
    rephrase: list[Question] = field(default_factory=list)
    locality: list[Question] = field(default_factory=list)
    relation_specificity: list[Question] = field(default_factory=list)
    portability: list[Question] = field(default_factory=list)

    @classmethod
    def about(cls, requests: Sequence[EditRequest]) -> Questions:
        """Collect the questions about these requests, in their order."""
        questions = cls()
        for request in requests:
            questions.edit.append((request.prompt, request.target_new))
            questions.rephrase += [(prompt, request.target_new) for prompt in request.rephrase_prompts]
            questions.locality += _pairs(request.locality.values())
            questions.relation_specificity += _pairs([request.relation_specificity])
            questions.portability += _pairs(request.portability.values())
        return questions

    def kinds(self) -> tuple[list[Question], ...]:
        """Return the questions of each kind."""
        return self.edit, self.rephrase, self.locality, self.relation_specificity, self.portability

    def all(self) -> list[Question]:
        """Return all questions in one list."""
        return [question for kind in self.kinds() for question in kind]


class Scoreboard:
    """Scores past edits together, asking the unedited model once and for all.

    Args:
        scorer: asks the questions.
        model: the model, before any edit of this run.
        requests: all requests of the run.
        retention: held-out facts (TRR).
        task: what the data ask for: ``qa``, ``classification`` or ``generation``.
        listen_to: the requests whose free answers the unedited model is asked for, to be set against the
            edited model's; all of them by default. Free answers cost several times what the others do.
        text: a held-out text: how the model reads it (perplexity), and how it writes itself (fluency).

    Raises:
        HyperParameterError: there is no such task.
        DataError: the held-out text is too short.
    """

    def __init__(
        self,
        scorer: Scorer,
        model: Any,
        requests: Sequence[EditRequest],
        retention: Sequence[Probe],
        *,
        task: str = "qa",
        listen_to: Sequence[EditRequest] | None = None,
        text: str | None = None,
    ) -> None:
        self.scorer, self.task = scorer, task_named(task)
        self.retention = [(probe.prompt, probe.answer) for probe in retention]
        self._text = HeldOutText(text, scorer.tokenizer, model) if text is not None else None
        asked = [*Questions.about(requests).all(), *_contested(requests), *self.retention]
        asked = list(dict.fromkeys(asked))
        self.unedited: dict[Question, Forced] = dict(zip(asked, scorer.forced(model, asked), strict=True))
        heard = list(requests if listen_to is None else listen_to) if scorer.speaks else []
        # F1 of held-out answers; no more of them than edits, so that a short run stays short.
        self._free_retention = self.retention[: len(heard)] if self.task.measure is None else []
        free = list(dict.fromkeys(_free_questions(heard) + self._free_retention))
        self.said: dict[Question, str] = dict(zip(free, self.answers(model, free), strict=True)) if heard else {}
        self._fluent = [request.prompt for request in sample_of(requests, FLUENT)] if self._text else []
        self._fluency = self._fluency_of(model)
        self._text_nll = self._text.nll(model) if self._text else []

    # ------------------------------------------------------------------ under teacher forcing

    def success(self, model: Any, requests: Sequence[EditRequest]) -> list[RequestScores]:
        """Return each request's scores on its own prompt alone, for right after its edit."""
        answers = self.scorer.forced(model, [(request.prompt, request.target_new) for request in requests])
        return [{"reliability": [answer.accuracy], **self._measured("ERR", [answer])} for answer in answers]

    def score(
        self, model: Any, requests: Sequence[EditRequest], *, thorough: bool = False, right: Sequence[EditRequest] = ()
    ) -> Scores:
        """Return the teacher-forced scores of these edits and of what should be untouched by them.

        Args:
            model: the edited model.
            requests: the edits.
            thorough: whether to compare the new answers with the true ones, too (ROME's scores), and to
                read the held-out text. It costs about as much again where answers have several tokens.
            right: requests that were left out because the model gave the right answer as it was (ARR).
        """
        by_request, retained = self._score_each(model, requests, thorough, right)
        scores = gather(by_request)
        once = scores.renamed({"reliability": "ERR"}) | scores | gather(retained)
        arr = gather([_only(one, "ARR") for one in [*by_request, *retained]])
        return once | arr | (self._text_scores(model) if thorough else Scores())

    def score_each(self, model: Any, requests: Sequence[EditRequest]) -> tuple[list[RequestScores], float | None]:
        """Return each request's teacher-forced scores, ROME's among them, and TRR."""
        by_request, retained = self._score_each(model, requests, True, ())
        return by_request, averages(retained).get("TRR")

    def _score_each(
        self, model: Any, requests: Sequence[EditRequest], thorough: bool, right: Sequence[EditRequest]
    ) -> tuple[list[RequestScores], list[RequestScores]]:
        asked = [Questions.about([request]) for request in requests]
        questions = [question for one in asked for question in one.all()] + self.retention
        questions += [(request.prompt, request.target_new) for request in right]
        questions += _contested(requests) if thorough else []
        questions = list(dict.fromkeys(questions))
        answers = dict(zip(questions, self.scorer.forced(model, questions), strict=True))
        by_request = [self._scores_of(one, answers) for one in asked]
        if thorough:
            by_request = [one | success_scores(r, answers) for one, r in zip(by_request, requests, strict=True)]
        retained = [
            {"TRR": [answers[q].accuracy], **self._measured("TRR", [answers[q]]), "ARR": self._kept([q], answers)}
            for q in self.retention
        ]
        retained += [{"ARR": self._kept([(r.prompt, r.target_new)], answers)} for r in right]
        return by_request, retained

    def _scores_of(self, asked: Questions, answers: Mapping[Question, Forced]) -> RequestScores:
        edit, rephrase, portable = (
            [answers[question] for question in part] for part in (asked.edit, asked.rephrase, asked.portability)
        )
        return {
            "reliability": [answer.accuracy for answer in edit],
            "generality": [answer.accuracy for answer in rephrase],
            "locality": self._unchanged(asked.locality, answers),
            "relation_specificity": self._unchanged(asked.relation_specificity, answers),
            "portability": [answer.accuracy for answer in portable],
            **self._measured("ERR", edit),
            "ARR": self._kept(asked.locality, answers),
        }

    def _measured(self, name: str, answers: Sequence[Forced]) -> RequestScores:
        """Return the task's own measure of answers under teacher forcing, if it has one."""
        values = [value for answer in answers if (value := self.task.forced(answer)) is not None]
        return {f"{name}_{self.task.suffix}": values} if values else {}

    def _unchanged(self, questions: Iterable[Question], answers: Mapping[Question, Forced]) -> list[float]:
        """Return how much of each answer is what the unedited model chose."""
        return [answers[question].agreement(self.unedited[question]) for question in questions]

    def _kept(self, questions: Iterable[Question], answers: Mapping[Question, Forced]) -> list[float]:
        """Return the accuracies of those answers that the unedited model got whole."""
        return [answers[question].accuracy for question in questions if self.unedited[question].exact]

    def _text_scores(self, model: Any) -> Scores:
        return _text_scores("text_perplexity", self._text.nll(model)) if self._text else Scores()

    # ------------------------------------------------------------------ in free generation

    def answers(self, model: Any, questions: Sequence[Question]) -> list[str]:
        """Let the model answer freely, until it stops by itself or has said enough.

        Returns:
            All that was said; what belongs to the answer is for :func:`natural_answer` to say.
        """
        limits = [max(ANSWER_TOKENS, self.scorer.answer_tokens(*question) + 4) for question in questions]

        def ended(index: int, text: str) -> bool:
            return natural_end(text, questions[index][1]) is not None

        return self.scorer.generate(model, [prompt for prompt, _ in questions], limits, ended)

    def was_heard(self, request: EditRequest) -> bool:
        """Whether the unedited model's free answers about this request are known."""
        return all(question in self.said for question in _free_questions([request]))

    def score_generation(self, model: Any, requests: Sequence[EditRequest]) -> tuple[Scores, list[Generation]]:
        """Return the free-generation scores of these edits, and what was said to their prompts."""
        by_request, said = self.score_generation_each(model, requests)
        scores = gather(by_request)
        if self._free_retention:
            free = self.answers(model, self._free_retention)
            scores |= gather([_f1("TRR_f1", [s], [q]) for s, q in zip(free, self._free_retention, strict=True)])
        return scores | _fluency_scores("fluency", self._fluency_of(model)), said

    def score_generation_each(
        self, model: Any, requests: Sequence[EditRequest]
    ) -> tuple[list[RequestScores], list[Generation]]:
        """Return each request's free-generation scores, and what was said to its prompts.

        Requests whose free answers the unedited model wasn't asked for are scored, too, but there is
        nothing to set what was said against, and they are left out of the second list. A classifier says nothing.
        """
        if not self.scorer.speaks:
            return [{} for _ in requests], []
        questions = list(dict.fromkeys(_free_questions(requests)))
        said = dict(zip(questions, self.answers(model, questions), strict=True))
        by_request = [self._free_scores(request, said) for request in requests]
        return by_request, [self._generation(request, said) for request in requests if self.was_heard(request)]

    def _free_scores(self, request: EditRequest, said: Mapping[Question, str]) -> RequestScores:
        asked = Questions.about([request])
        edit, rephrase = ([said[question] for question in part] for part in (asked.edit, asked.rephrase))
        scores = {
            "generation_match": _matches(starts_with_answer, edit, asked.edit),
            "generation_match_word": _matches(starts_with_whole_answer, edit, asked.edit),
            "generation_match_rephrase": _matches(starts_with_answer, rephrase, asked.rephrase),
            "exact_match": _matches(_naturally(exact_match), edit, asked.edit),
            "exact_match_rephrase": _matches(_naturally(exact_match), rephrase, asked.rephrase),
            "contains_match": _matches(_naturally(contains_match), edit, asked.edit),
            "contains_match_rephrase": _matches(_naturally(contains_match), rephrase, asked.rephrase),
        }
        return scores | (_f1("ERR_f1", edit, asked.edit) if self.task.measure is None else {})

    def _generation(self, request: EditRequest, said: Mapping[Question, str]) -> Generation:
        def row(question: Question) -> tuple[str, str, str, bool]:
            prompt, answer = question
            before, after = (natural_answer(spoken[question], answer) for spoken in (self.said, said))
            return prompt, before, after, starts_with_whole_answer(said[question], answer)

        (prompt, before, after, match), *rephrase = (row(question) for question in _free_questions([request]))
        return Generation(request.case_id, prompt, request.target_new, before, after, match, tuple(rephrase))

    def _fluency_of(self, model: Any) -> list[float]:
        limits = [max(1, FLUENCY_TOKENS - len(self.scorer.tokenizer(prompt)["input_ids"])) for prompt in self._fluent]
        said = self.scorer.generate(model, self._fluent, limits)
        entropies = [ngram_entropy(f"{prompt} {text}") for prompt, text in zip(self._fluent, said, strict=True)]
        return [entropy for entropy in entropies if entropy is not None]

    # ------------------------------------------------------------------ before

    def before(self, requests: Sequence[EditRequest]) -> Scores:
        """Return the unedited model's scores about these requests."""
        by_request: list[RequestScores] = []
        for request in requests:
            scores = self._scores_of(Questions.about([request]), self.unedited) | success_scores(request, self.unedited)
            if self.was_heard(request):
                scores |= self._free_scores(request, self.said)
            by_request.append(scores)
        retained: list[RequestScores] = []
        for question in self.retention:
            answer = self.unedited[question]
            scores = {"TRR": [answer.accuracy], **self._measured("TRR", [answer])}
            free = question in self._free_retention
            retained.append(scores | (_f1("TRR_f1", [self.said[question]], [question]) if free else {}))
        found = gather(by_request) | gather(retained) | _fluency_scores("fluency", self._fluency)
        found |= _text_scores("text_perplexity", self._text_nll)
        return found.renamed({name: f"{name}_before" for name in _BEFORE})


_BEFORE = (
    "TRR", "ERR_f1", "TRR_f1", "ERR_acc", "TRR_acc", "ERR_ppl", "TRR_ppl", "reliability", "generality", "portability",
    *SUCCESS, SCORE, "exact_match", "contains_match", "fluency", "text_perplexity",
)  # fmt: skip
"""What is reported of the unedited model, too."""


def edit_success_of(scores: RequestScores) -> dict[str, float]:
    """Return what a journal's line says of a request's own prompt, of scores taken right after its edit."""
    names = {"reliability": "ES", "ERR_acc": "ES_acc", "ERR_ppl": "ES_ppl"}
    return {es: scores[name][0] for name, es in names.items() if scores.get(name)}


def _pairs(sets: Any) -> list[Question]:
    return [(probe.prompt, probe.answer) for probes in sets for probe in probes]


def _contested(requests: Sequence[EditRequest]) -> list[Question]:
    return [q for request in requests for kind in contests(request) for one in kind for q in one.questions]


def _free_questions(requests: Sequence[EditRequest]) -> list[Question]:
    """Return what is asked freely about requests: the edit's prompt, then its paraphrases."""
    return [question for r in requests for asked in [Questions.about([r])] for question in asked.edit + asked.rephrase]


def _matches(matches: Callable[[str, str], bool], texts: Sequence[str], questions: Sequence[Question]) -> list[float]:
    return [float(matches(text, answer)) for text, (_, answer) in zip(texts, questions, strict=True)]


def _naturally(matches: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    return lambda text, answer: matches(natural_answer(text, answer), answer)


def _f1(name: str, texts: Sequence[str], questions: Sequence[Question]) -> RequestScores:
    said = zip(texts, questions, strict=True)
    return {name: [token_f1(natural_answer(text, answer), answer) for text, (_, answer) in said]}


def _only(scores: RequestScores, name: str) -> RequestScores:
    return {name: scores.get(name, [])}


def _fluency_scores(name: str, entropies: Sequence[float]) -> Scores:
    return gather([{name: [entropy]} for entropy in entropies])


def _text_scores(name: str, nll: Sequence[Sequence[float]]) -> Scores:
    """Return a text's perplexity; its interval is that of the mean log-likelihood over windows."""
    value = perplexity(nll)
    if value is None:
        return Scores()
    ends = gather([{name: list(window)} for window in nll]).intervals.get(name)
    interval = None if ends is None else Interval(*(perplexity([[end]]) or 0.0 for end in ends))
    return Scores({name: value}, {} if interval is None else {name: interval})
