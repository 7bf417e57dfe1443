"""The scores that a judge gives generated answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.evaluation.answer_matching import Generation
from easyedit_lifelong.evaluation.averages import Scores, averages_with_intervals
from easyedit_lifelong.evaluation.judges import Judge, JudgedAnswer, Verdict
from easyedit_lifelong.plurals import counted

JUDGED, JUDGED_REPHRASE = "judge_score", "judge_score_rephrase"

_BATCH = 64


class JudgedAnswers:
    """Scores generated answers with a judge. An answer is judged once.

    Args:
        judge: the judge.
        name: its name, for messages.
        known: the verdicts of an earlier run.
        record: receives new verdicts, some at a time.
    """

    def __init__(
        self,
        judge: Judge,
        name: str,
        known: Mapping[JudgedAnswer, Verdict] | None = None,
        record: Callable[[Mapping[JudgedAnswer, Verdict]], None] = lambda verdicts: None,
    ) -> None:
        self._judge, self._name, self._record = judge, name, record
        self._verdicts = dict(known or {})

    def scores(self, generations: Sequence[Generation]) -> Scores:
        """Return the mean verdicts on the answers to edited prompts and paraphrases, of both models.

        Args:
            generations: the generated answers.

        Returns:
            ``judge_score`` and ``judge_score_rephrase`` of the edited model, and ``…_before`` of the unedited one.

        Raises:
            PluginError: the judge of a plugin fails; the message has the prompt.
            RunError: the judge gives no valid verdict.
        """
        self._judge_new(
            answer for generation in generations for answers in _answers(generation).values() for answer in answers
        )
        return averages_with_intervals(
            [
                {name: [self._verdicts[answer].score for answer in answers] for name, answers in _answers(one).items()}
                for one in generations
            ]
        )

    def _judge_new(self, answers: Iterable[JudgedAnswer]) -> None:
        """Judge the answers without a verdict."""
        new = [answer for answer in dict.fromkeys(answers) if answer not in self._verdicts]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            try:
                verdicts = list(self._judge(batch))
            except PluginError as error:
                raise PluginError(f"{error}, while it judges {_named(batch)}") from error
            if len(verdicts) != len(batch) or not all(map(_is_valid, verdicts)):
                raise RunError(
                    f"judge {self._name}: does not give one verdict from 0 to 1 on each answer, as a list of Verdicts"
                )
            judged = dict(zip(batch, verdicts, strict=True))
            self._verdicts |= judged
            self._record(judged)


def _named(batch: Sequence[JudgedAnswer]) -> str:
    """Return which answers are judged together, for messages."""
    others = f" and {counted(len(batch) - 1, 'other')}" if len(batch) > 1 else ""
    return f"the answer to {batch[0].prompt!r}{others}"


def _is_valid(verdict: object) -> bool:
    """Return whether a judge's verdict can be used."""
    return isinstance(verdict, Verdict) and isinstance(verdict.score, (int, float)) and 0 <= verdict.score <= 1


def _answers(generation: Generation) -> dict[str, list[JudgedAnswer]]:
    """Return the answers of a generation by the name of their score."""
    target = generation.target_new
    return {
        JUDGED: [JudgedAnswer(generation.prompt, target, generation.after)],
        f"{JUDGED}_before": [JudgedAnswer(generation.prompt, target, generation.before)],
        JUDGED_REPHRASE: [JudgedAnswer(prompt, target, after) for prompt, _, after, _ in generation.rephrase],
        f"{JUDGED_REPHRASE}_before": [
            JudgedAnswer(prompt, target, before) for prompt, before, _, _ in generation.rephrase
        ],
    }
