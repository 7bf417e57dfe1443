"""The verdicts of a run's judge, in the run's folder, so that a resumed run judges no answer twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from easyedit_lifelong.evaluation.judged_answers import JudgedAnswers
from easyedit_lifelong.evaluation.judges import JudgedAnswer, Verdict
from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import JudgeType
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_lines import Check, is_text, read_lines

JUDGEMENTS = "judgements.jsonl"


def _is_share(value: Any, _: Mapping[str, Any]) -> bool:
    return is_number(value) and 0 <= value <= 1


_FIELDS: Mapping[str, Check] = {
    **dict.fromkeys(("prompt", "target", "output", "reason"), is_text),
    "score": _is_share,
}


def judge_type(text: str) -> tuple[JudgeType, str]:
    """Return the judge that ``NAME`` or ``NAME:ARGUMENT`` names, and the argument.

    Raises:
        PluginError: no judge of that name is registered.
    """
    name, _, argument = text.partition(":")
    return get_plugins().judges.get(name), argument


def judged_answers(judge: str | None, folder: RunFolder | None) -> JudgedAnswers | None:
    """Return what scores answers with a judge; None without a judge.

    Args:
        judge: ``NAME`` or ``NAME:ARGUMENT``.
        folder: the run's folder, if it has one. Verdicts that it holds are used; new ones are added.

    Raises:
        PluginError: there is no such judge, or its argument can't be used.
        RunError: the file of verdicts can't be read.
    """
    if judge is None:
        return None
    entry, argument = judge_type(judge)
    known: dict[JudgedAnswer, Verdict] = {}
    if folder is None:
        return JudgedAnswers(entry.create(argument), judge)
    lines = read_lines(folder.path / JUDGEMENTS, _FIELDS, "delete this file, and the answers are judged again")
    if lines:
        folder.rewrite(JUDGEMENTS, lines)  # without a last line that was written only in part
    for line in lines:
        answer = JudgedAnswer(line["prompt"], line["target"], line["output"])
        known[answer] = Verdict(line["score"], line["reason"])

    def record(verdicts: Mapping[JudgedAnswer, Verdict]) -> None:
        folder.append(JUDGEMENTS, [{**asdict(answer), **asdict(verdict)} for answer, verdict in verdicts.items()])

    return JudgedAnswers(entry.create(argument), judge, known, record)
