"""The scoreboard of a run: scores past edits, and compares them with the unedited model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.requested_rewrites import MULTI_HOP
from easyedit_lifelong.evaluation.answer_matching import Generation
from easyedit_lifelong.evaluation.averages import RequestScores, Scores, averages, averages_with_intervals
from easyedit_lifelong.evaluation.carry_over import CARRY_OVER, CarryOver
from easyedit_lifelong.evaluation.edited_subjects import EditedSubjects
from easyedit_lifelong.evaluation.generated_answers import GeneratedAnswers
from easyedit_lifelong.evaluation.multiple_choice import (
    BY_SUBJECT,
    CAPABILITY,
    CAPABILITY_NORM,
    MultipleChoiceScores,
    with_before,
)
from easyedit_lifelong.evaluation.probe_sets import LOCALITY_SETS, PORTABILITY_SETS, questions_of_sets
from easyedit_lifelong.evaluation.questions import Question, Questions, compared_questions
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.self_consistency import SELF_CONSISTENCY, SelfConsistency
from easyedit_lifelong.evaluation.success import SCORE, SUCCESS, success_scores
from easyedit_lifelong.evaluation.tasks import task_named
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer
from easyedit_lifelong.evaluation.text_scores import TextScores
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers

_BEFORE = (
    "TRR",
    "ERR_f1",
    "TRR_f1",
    "ERR_acc",
    "TRR_acc",
    "ERR_ppl",
    "TRR_ppl",
    "reliability",
    "generality",
    "portability",
    *PORTABILITY_SETS,
    MULTI_HOP,
    *SUCCESS,
    SCORE,
    "generation_match",
    "generation_match_rephrase",
    "exact_match",
    "contains_match",
    "fluency",
    "text_perplexity",
    CAPABILITY,
    CAPABILITY_NORM,
    *CARRY_OVER,
    *SELF_CONSISTENCY,
)
"""The scores that are also reported for the unedited model, as ``<name>_before``."""


class Scoreboard:
    """Scores past edits, and compares with the unedited model. The constructor scores the unedited model.

    Args:
        scorer: the scorer that runs the model.
        model: the unedited model.
        requests: all requests of the run.
        retention: held-out facts (TRR).
        task: the task of the data: ``qa``, ``classification`` or ``generation``.
        scored_requests: the requests that can be scored after the edits; None for all.
        generation_requests: the requests for which the unedited model generates text, to compare with the edited
            model's; None for all requests, empty if nothing is to be generated. Generated answers cost several times as
            much as teacher-forced ones.
        text: a held-out text for perplexity; with it, fluency is measured, too.
        capability: multiple-choice questions.
        carry_over: scores edits in the form in which they were not made; None for no such scores.
        self_consistency: scores what the model writes after its answers; None for no such scores.
        unedited_answers: the unedited model's answers that other scoreboards have computed, and to which this one adds
            its own; None to compute all of them.
        generated_retention: how many of the held-out facts are answered with generated text, too; None for as many as
            requests.

    Attributes:
        scorer: the scorer that runs the model.
        task: the task of the data.
        retention: the held-out questions.
        unedited: the unedited model's teacher-forced answer to each question.
        generated: scores generated answers.

    Raises:
        HyperParameterError: the task is unknown.
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
        scored_requests: Sequence[EditRequest] | None = None,
        generation_requests: Sequence[EditRequest] | None = None,
        text: str | None = None,
        capability: Sequence[MultipleChoiceItem] = (),
        carry_over: CarryOver | None = None,
        self_consistency: SelfConsistency | None = None,
        unedited_answers: UneditedAnswers | None = None,
        generated_retention: int | None = None,
    ) -> None:
        self.scorer, self.task = scorer, task_named(task)
        self.retention = [(probe.prompt, probe.answer) for probe in retention]
        generates = generation_requests is None or len(generation_requests) > 0
        self._text = TextScores(scorer, model, requests if generates else [], text)
        self._carry_over, self._self_consistency = carry_over, self_consistency
        self._capability = MultipleChoiceScores(scorer.tokenizer, model, capability, unedited_answers)
        scored = requests if scored_requests is None else scored_requests
        questions = Questions.about(scored).all() + compared_questions(scored) + self.retention
        known = unedited_answers
        self.unedited = self._forced(model, questions) if known is None else known.forced(scorer, model, questions)
        generation_requests = requests if generation_requests is None else generation_requests
        f1 = self.task.measure is None
        answered = self.retention[:generated_retention]
        self.generated = GeneratedAnswers(scorer, model, generation_requests, answered, f1=f1, known=known)

    def success(self, model: Any, requests: Sequence[EditRequest]) -> list[RequestScores]:
        """Return each request's scores on its own prompt only (for ES, right after its edit)."""
        answers = self.scorer.forced(model, [(request.prompt, request.target_new) for request in requests])
        return [{"reliability": [answer.accuracy], **self._task_scores("ERR", [answer])} for answer in answers]

    def score(
        self,
        model: Any,
        requests: Sequence[EditRequest],
        *,
        thorough: bool = False,
        skipped: Sequence[EditRequest] = (),
        edited: Sequence[EditRequest] | None = None,
    ) -> Scores:
        """Return the teacher-forced scores of past edits, and of the answers that they must not change.

        Args:
            model: the edited model.
            requests: the requests of the edits.
            thorough: whether to compute ROME's scores, which compare new answers with true ones, the perplexity of the
                held-out text, and the accuracy on multiple-choice questions. If answers have several tokens, ROME's
                scores about double the cost.
            skipped: requests that were skipped because the model gave their target without an edit; they count in ARR.
            edited: the requests of all past edits, if ``requests`` is a sample of them.
        """
        by_request, by_other_question = self._score_questions(model, requests, thorough, skipped)
        _add_locality_of_other_subjects(by_request, requests, requests if edited is None else edited)
        scores = averages_with_intervals(by_request)
        scores = scores.renamed({"reliability": "ERR"}) | scores | averages_with_intervals(by_other_question)
        scores |= averages_with_intervals([{"ARR": entry["ARR"]} for entry in [*by_request, *by_other_question]])
        return scores | self._text.perplexity(model) | self._capability.score(model) if thorough else scores

    def score_each(self, model: Any, requests: Sequence[EditRequest]) -> tuple[list[RequestScores], float | None]:
        """Return the teacher-forced scores of each request, with ROME's scores; and TRR (None without facts)."""
        by_request, by_held_out_question = self._score_questions(model, requests, thorough=True)
        return by_request, averages(by_held_out_question).get("TRR")

    def score_generation(self, model: Any, requests: Sequence[EditRequest]) -> tuple[Scores, list[Generation]]:
        """Return the scores of generated answers to these requests, and the answers."""
        by_request, generations = self.generated.score_each(model, requests)
        scores = averages_with_intervals(by_request)
        scores |= averages_with_intervals(self.generated.retained(model))
        if self._carry_over is not None:
            scores |= averages_with_intervals(self._carry_over.score(model, requests))
        if self._self_consistency is not None:
            by_request, generations = self._self_consistency.score(model, requests, generations)
            scores |= averages_with_intervals(by_request)
        return scores | self._text.fluency(model), generations

    def before(self, requests: Sequence[EditRequest]) -> Scores:
        """Return the "before" scores of these requests: those of the unedited model."""
        by_request = [self._scores_of(request, self.unedited, thorough=True) for request in requests]
        for scores, request in zip(by_request, requests, strict=True):
            if self.generated.answered_before(request):
                scores.update(self.generated.scores_of(request, self.generated.unedited))
        retained = [
            self._retained(question, self.unedited) | self.generated.retained_of(question, self.generated.unedited)
            for question in self.retention
        ]
        unedited_scores = averages_with_intervals(by_request) | averages_with_intervals(retained) | self._text.unedited
        unedited_scores |= self._capability.unedited
        if self._carry_over is not None:
            unedited_scores |= averages_with_intervals(self._carry_over.before(requests))
        if self._self_consistency is not None:
            unedited_scores |= averages_with_intervals(self._self_consistency.before(requests))
        return unedited_scores.renamed({name: f"{name}_before" for name in _BEFORE})

    def capability_by_subject(self, last_scores: Mapping[str, Any]) -> dict[str, Any]:
        """Return the multiple-choice accuracies of each subject in a line of ``metrics.jsonl``, and those before."""
        return with_before(last_scores.get(BY_SUBJECT, {}), self._capability.unedited.further.get(BY_SUBJECT, {}))

    def _score_questions(
        self, model: Any, requests: Sequence[EditRequest], thorough: bool, skipped: Sequence[EditRequest] = ()
    ) -> tuple[list[RequestScores], list[RequestScores]]:
        """Return the scores of each request; and of each held-out question, then of each skipped request.

        The arguments are those of :meth:`score`.
        """
        skipped_questions = [(request.prompt, request.target_new) for request in skipped]
        questions = [question for request in requests for question in Questions.about([request]).all()]
        questions += self.retention + skipped_questions + (compared_questions(requests) if thorough else [])
        answers = self._forced(model, questions)
        by_request = [self._scores_of(request, answers, thorough) for request in requests]
        retained = [self._retained(question, answers) for question in self.retention]
        return by_request, retained + [{"ARR": self._accurate([question], answers)} for question in skipped_questions]

    def _forced(self, model: Any, questions: Sequence[Question]) -> dict[Question, ForcedAnswer]:
        """Return a model's teacher-forced answer to each question."""
        distinct = list(dict.fromkeys(questions))
        return dict(zip(distinct, self.scorer.forced(model, distinct), strict=True))

    def _scores_of(
        self, request: EditRequest, answers: Mapping[Question, ForcedAnswer], thorough: bool
    ) -> RequestScores:
        """Return a request's scores, given the teacher-forced answer to each of its questions."""
        questions = Questions.about([request])
        edit, rephrase, portability = (
            [answers[question] for question in kind]
            for kind in (questions.edit, questions.rephrase, questions.portability)
        )
        return {
            "reliability": [answer.accuracy for answer in edit],
            "generality": [answer.accuracy for answer in rephrase],
            "locality": self._unchanged(questions.locality, answers),
            "relation_specificity": self._unchanged(questions.relation_specificity, answers),
            "portability": [answer.accuracy for answer in portability],
            **self._set_scores(request, answers),
            **self._task_scores("ERR", edit),
            "ARR": self._accurate(questions.locality, answers),
            **(success_scores(request, answers) if thorough else {}),
        }

    def _set_scores(self, request: EditRequest, answers: Mapping[Question, ForcedAnswer]) -> RequestScores:
        """Return the scores of the sets of portability and locality questions that have one."""
        portability = questions_of_sets(request.portability, PORTABILITY_SETS)
        locality = questions_of_sets(request.locality, LOCALITY_SETS)
        multi_hop = questions_of_sets(request.portability, [MULTI_HOP])
        return {
            **{name: [answers[question].accuracy for question in asked] for name, asked in portability.items()},
            **{name: self._unchanged(asked, answers) for name, asked in locality.items()},
            **{name: [float(any(answers[question].exact for question in asked))] for name, asked in multi_hop.items()},
        }

    def _retained(self, question: Question, answers: Mapping[Question, ForcedAnswer]) -> RequestScores:
        """Return the scores of a held-out question."""
        answer = answers[question]
        return {
            "TRR": [answer.accuracy],
            **self._task_scores("TRR", [answer]),
            "ARR": self._accurate([question], answers),
        }

    def _task_scores(self, name: str, answers: Sequence[ForcedAnswer]) -> RequestScores:
        """Return a score in the task's own measure, if that is a teacher-forced one."""
        values = [value for answer in answers if (value := self.task.forced(answer)) is not None]
        return {f"{name}_{self.task.suffix}": values} if values else {}

    def _unchanged(self, questions: Iterable[Question], answers: Mapping[Question, ForcedAnswer]) -> list[float]:
        """Return, for each question, the share of tokens that both this model and the unedited model predict."""
        return [answers[question].agreement(self.unedited[question]) for question in questions]

    def _accurate(self, questions: Iterable[Question], answers: Mapping[Question, ForcedAnswer]) -> list[float]:
        """Return the accuracy on each question that the unedited model answers correctly (ARR)."""
        return [answers[question].accuracy for question in questions if self.unedited[question].exact]


def _add_locality_of_other_subjects(
    scores: Sequence[RequestScores], requests: Sequence[EditRequest], edited: Sequence[EditRequest]
) -> None:
    """Add ``locality_other_subjects`` to the scores of each request, if some locality prompt names an edited subject.

    Args:
        scores: the scores of each request, which have ``locality``.
        requests: the requests.
        edited: the requests of all edits.
    """
    subjects = EditedSubjects(edited)
    named = [
        [subjects.named_by(prompt, request) for prompt, _ in Questions.about([request]).locality]
        for request in requests
    ]
    if any(map(any, named)):
        for of_request, are_named in zip(scores, named, strict=True):
            values = zip(of_request["locality"], are_named, strict=True)
            of_request["locality_other_subjects"] = [value for value, is_named in values if not is_named]


def edit_success_of(scores: RequestScores) -> dict[str, float]:
    """Return ES, and ES in the task's measure, of a request, given its scores right after its edit."""
    names = {"reliability": "ES", "ERR_acc": "ES_acc", "ERR_ppl": "ES_ppl"}
    return {es: scores[name][0] for name, es in names.items() if scores.get(name)}
