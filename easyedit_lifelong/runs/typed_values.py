"""Values of YAML files: check their keys, types and choices, and collect what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from easyedit_lifelong.errors import did_you_mean
from easyedit_lifelong.hyperparams import convert_value, describe_type


def typed_values(
    values: Mapping[str, Any], types: Mapping[str, Any], prefix: str, problems: list[str]
) -> dict[str, Any]:
    """Return the values that have their key's type; append unknown keys and other values to ``problems``.

    Args:
        values: the values by key.
        types: the type of each known key.
        prefix: the section's name and a dot, for messages; empty at the top level.
        problems: the list that messages are appended to.
    """
    typed = {}
    for key, value in values.items():
        if key not in types:
            problems.append(f"unknown key {prefix + str(key)!r}.{did_you_mean(str(key), types)}")
            continue
        try:
            typed[key] = convert_value(value, types[key])
        except (TypeError, ValueError):
            problems.append(f"{prefix}{key}: {value!r} is not {describe_type(types[key])}")
    return typed


def choice_problems(key: str, value: Any, choices: Sequence[str]) -> list[str]:
    """Return a message if a text is none of the choices; values of other types have a message already."""
    if value in choices or not isinstance(value, str):
        return []
    return [f"{key}: {value!r} is none of {', '.join(choices)}.{did_you_mean(value, choices)}"]
