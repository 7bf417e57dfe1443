"""Figures of causal traces: any identifier gives a name of a file."""

from __future__ import annotations

import re

import pytest
import torch

from easyedit_lifelong.locate.known_facts import KnownFact
from easyedit_lifelong.locate.trace import FactTrace
from easyedit_lifelong.reporting.report.style import figure_options
from easyedit_lifelong.reporting.report.trace_figures import heat_map


@pytest.mark.parametrize("identifier", ["a/b", "", "é", "x\ud83d"])
def test_the_name_of_a_heat_map_can_be_a_files(identifier: str) -> None:
    fact = KnownFact(identifier, "the capital of France is", "France", "Paris", where="here")
    trace = FactTrace(fact, ["the", "France"], (1, 2), "Paris", 0.5, 0.25, {"state": torch.rand(2, 3)})
    with figure_options():
        plot = heat_map(trace, "state", 1)
    assert re.fullmatch(r"heat-[A-Za-z0-9._-]*-state", plot.name)
