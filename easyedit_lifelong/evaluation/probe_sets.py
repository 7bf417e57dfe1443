"""The sets of portability and locality questions that have a score of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from easyedit_lifelong.data.request import Probe, set_key

PORTABILITY_SETS = ("subject_aliasing", "reasoning", "logical_generalization")
"""KnowEdit's portability sets; the name is also that of the score."""

LOCALITY_SETS = ("forgetfulness",)
"""KnowEdit's locality sets, without ``relation_specificity``, which isn't part of locality here."""


def questions_of_sets(sets: Mapping[str, Sequence[Probe]], names: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the questions of the sets with these names, by name, without sets that have none.

    Args:
        sets: the sets of a request. Capitals, spaces and underscores in their names don't matter.
        names: the names.
    """
    by_key: dict[str, list[tuple[str, str]]] = {}
    for name, probes in sets.items():
        by_key.setdefault(set_key(name), []).extend((probe.prompt, probe.answer) for probe in probes)
    return {name: by_key[set_key(name)] for name in names if by_key.get(set_key(name))}
