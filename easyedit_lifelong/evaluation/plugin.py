"""The evaluation package as a plugin: registers the built-in judges of generated answers."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.evaluation.judges import match_judge
from easyedit_lifelong.evaluation.openai_judge import OpenAIJudge, check_openai
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import JudgeType


@hookimpl
def register_judges(register: Callable[[JudgeType], None]) -> None:
    """Register the judges."""
    register(JudgeType("match", lambda argument: match_judge, "right if the answer equals or contains the target"))
    register(
        JudgeType("openai", OpenAIJudge, "asks a model: openai:MODEL (any server with OpenAI's API)", check_openai)
    )
