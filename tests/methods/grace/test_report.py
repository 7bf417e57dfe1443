"""GRACE's section of the report: growth of the codebook and radii, from the journal."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong import RunRecord
from easyedit_lifelong.methods.grace.report import report_sections


def run_of(*entries: dict[str, Any]) -> RunRecord:
    return RunRecord("GRACE", journal=[{"status": "edited", **entry} for entry in entries])


def test_the_section_shows_the_number_of_keys_and_the_radii_by_decision() -> None:
    (section,) = report_sections(
        run_of(
            {"n_keys": 1, "decision": "add", "radius": 1.0, "nearest_distance": None},
            {"n_keys": 1, "decision": "expand", "radius": 1.5, "nearest_distance": 0.7},
            {"n_keys": 2, "decision": "new rule", "radius": 0.5, "nearest_distance": 3.0},
            {"n_keys": 3, "decision": "add", "radius": 1.0, "nearest_distance": 9.0},
        )
    )
    assert (section.id, section.title) == ("codebook", "Codebook")
    growth, radii = section.plots
    assert growth.series[0].points == [(1, 1), (2, 1), (3, 2), (4, 3)]
    assert growth.series[1].points == [(0, 0), (4, 4)], "the comparison line is not that of one key for each edit"
    assert growth.caption == "3 keys hold 4 edits: 1.33 edits a key."
    labels = [series.label for series in radii.series]
    assert labels == ["distance to the nearest key", "radius (add)", "radius (expand)", "radius (new rule)"]
    assert radii.series[0].points == [(2, 0.7), (3, 3.0), (4, 9.0)]
    assert radii.series[1].points == [(1, 1.0), (4, 1.0)]
    assert "0.5 to 1.5" in radii.caption and radii.caption.endswith("add 2, expand 1, new rule 1.")


def test_the_section_of_a_run_without_edits_says_so() -> None:
    (section,) = report_sections(run_of())
    assert not section.plots and "nothing was edited" in section.empty
