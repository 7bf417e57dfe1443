"""Scores of a stream of edits, compared with the unedited model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.averages import RequestScores, Scores, averages, gather
from easyedit_lifelong.evaluation.forced import Forced
from easyedit_lifelong.evaluation.free_answers import FreeAnswers
from easyedit_lifelong.evaluation.generated import Generation
from easyedit_lifelong.evaluation.questions import Question, Questions, contested_questions
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.success import SCORE, SUCCESS, success_scores
from easyedit_lifelong.evaluation.tasks import task_named
from easyedit_lifelong.evaluation.text import TextScores

_BEFORE = (
    *("TRR", "ERR_f1", "TRR_f1", "ERR_acc", "TRR_acc", "ERR_ppl", "TRR_ppl", "reliability", "generality"),
    *("portability", *SUCCESS, SCORE, "exact_match", "contains_match", "fluency", "text_perplexity"),
)
"""The scores that are reported of the unedited model, too."""


class Scoreboard:
    """Scores past edits together. The unedited model is scored once, when this is made.

    Args:
        scorer: asks the questions.
        model: the model, before any edit of this run.
        requests: all requests of the run.
        retention: held-out facts (TRR).
        task: the task of the data: ``qa``, ``classification`` or ``generation``.
        generation_requests: the requests for which the unedited model generates text, to be compared with the
            edited model; all of them by default. Free answers cost several times as much as the others.
        text: a held-out text for perplexity; with it, fluency is measured, too.

    Attributes:
        scorer: see above.
        task: the task.
        retention: the held-out questions.
        unedited: the unedited model's choices along the answers.
        free: scores free answers.

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
        generation_requests: Sequence[EditRequest] | None = None,
        text: str | None = None,
    ) -> None:
        self.scorer, self.task = scorer, task_named(task)
        self.retention = [(probe.prompt, probe.answer) for probe in retention]
        self._text = TextScores(scorer, model, requests, text)
        questions = Questions.about(requests).all() + contested_questions(requests) + self.retention
        self.unedited = self._forced(model, questions)
        generated = requests if generation_requests is None else generation_requests
        self.free = FreeAnswers(scorer, model, generated, self.retention, f1=self.task.measure is None)

    def success(self, model: Any, requests: Sequence[EditRequest]) -> list[RequestScores]:
        """Return each request's scores on its own prompt alone, for right after its edit."""
        answers = self.scorer.forced(model, [(request.prompt, request.target_new) for request in requests])
        return [{"reliability": [answer.accuracy], **self._measured("ERR", [answer])} for answer in answers]

    def score(
        self, model: Any, requests: Sequence[EditRequest], *, thorough: bool = False, right: Sequence[EditRequest] = ()
    ) -> Scores:
        """Return the teacher-forced scores of these edits and of what they should leave unchanged.

        Args:
            model: the edited model.
            requests: the edits.
            thorough: whether to compare the new answers with the true ones, too (ROME's scores), and to
                score the held-out text. It costs about as much again where answers have several tokens.
            right: requests that were left out because the model gave the right answer without an edit (ARR).
        """
        by_request, retained = self._score_each(model, requests, thorough, right)
        scores = gather(by_request)
        scores = scores.renamed({"reliability": "ERR"}) | scores | gather(retained)
        scores |= gather([{"ARR": one["ARR"]} for one in [*by_request, *retained]])
        return scores | self._text.perplexity(model) if thorough else scores

    def score_each(self, model: Any, requests: Sequence[EditRequest]) -> tuple[list[RequestScores], float | None]:
        """Return each request's teacher-forced scores, ROME's among them, and TRR."""
        by_request, retained = self._score_each(model, requests, True, ())
        return by_request, averages(retained).get("TRR")

    def score_generation(self, model: Any, requests: Sequence[EditRequest]) -> tuple[Scores, list[Generation]]:
        """Return the free-generation scores of these edits, and the answers to their prompts."""
        by_request, generations = self.free.score_each(model, requests)
        return gather(by_request) | gather(self.free.retained(model)) | self._text.fluency(model), generations

    def before(self, requests: Sequence[EditRequest]) -> Scores:
        """Return the unedited model's scores about these requests."""
        by_request = [self._scores_of(request, self.unedited, thorough=True) for request in requests]
        for scores, request in zip(by_request, requests, strict=True):
            if self.free.known(request):
                scores.update(self.free.scores_of(request, self.free.unedited))
        retained = [
            self._retained(question, self.unedited) | self.free.retained_of(question, self.free.unedited)
            for question in self.retention
        ]
        found = gather(by_request) | gather(retained) | self._text.unedited
        return found.renamed({name: f"{name}_before" for name in _BEFORE})

    def _score_each(
        self, model: Any, requests: Sequence[EditRequest], thorough: bool, right: Sequence[EditRequest]
    ) -> tuple[list[RequestScores], list[RequestScores]]:
        """Return the scores of each request, and of each held-out question and right answer."""
        right_questions = [(request.prompt, request.target_new) for request in right]
        questions = [question for request in requests for question in Questions.about([request]).all()]
        questions += self.retention + right_questions + (contested_questions(requests) if thorough else [])
        answers = self._forced(model, questions)
        by_request = [self._scores_of(request, answers, thorough) for request in requests]
        retained = [self._retained(question, answers) for question in self.retention]
        return by_request, retained + [{"ARR": self._kept([question], answers)} for question in right_questions]

    def _forced(self, model: Any, questions: Sequence[Question]) -> dict[Question, Forced]:
        """Return a model's choices along the answers of these questions."""
        distinct = list(dict.fromkeys(questions))
        return dict(zip(distinct, self.scorer.forced(model, distinct), strict=True))

    def _scores_of(self, request: EditRequest, answers: Mapping[Question, Forced], thorough: bool) -> RequestScores:
        questions = Questions.about([request])
        edit, rephrase, portable = (
            [answers[question] for question in kind]
            for kind in (questions.edit, questions.rephrase, questions.portability)
        )
        return {
            "reliability": [answer.accuracy for answer in edit],
            "generality": [answer.accuracy for answer in rephrase],
            "locality": self._unchanged(questions.locality, answers),
            "relation_specificity": self._unchanged(questions.relation_specificity, answers),
            "portability": [answer.accuracy for answer in portable],
            **self._measured("ERR", edit),
            "ARR": self._kept(questions.locality, answers),
            **(success_scores(request, answers) if thorough else {}),
        }

    def _retained(self, question: Question, answers: Mapping[Question, Forced]) -> RequestScores:
        answer = answers[question]
        return {
            "TRR": [answer.accuracy],
            **self._measured("TRR", [answer]),
            "ARR": self._kept([question], answers),
        }

    def _measured(self, name: str, answers: Sequence[Forced]) -> RequestScores:
        """Return the task's own measure of answers under teacher forcing, if it has one."""
        values = [value for answer in answers if (value := self.task.forced(answer)) is not None]
        return {f"{name}_{self.task.suffix}": values} if values else {}

    def _unchanged(self, questions: Iterable[Question], answers: Mapping[Question, Forced]) -> list[float]:
        """Return the share of each answer's tokens that the unedited model chose, too."""
        return [answers[question].agreement(self.unedited[question]) for question in questions]

    def _kept(self, questions: Iterable[Question], answers: Mapping[Question, Forced]) -> list[float]:
        """Return the accuracies of those answers that the unedited model got whole."""
        return [answers[question].accuracy for question in questions if self.unedited[question].exact]


def edit_success_of(scores: RequestScores) -> dict[str, float]:
    """Return the journal's scores of a request's own prompt, given its scores right after its edit."""
    names = {"reliability": "ES", "ERR_acc": "ES_acc", "ERR_ppl": "ES_ppl"}
    return {es: scores[name][0] for name, es in names.items() if scores.get(name)}
