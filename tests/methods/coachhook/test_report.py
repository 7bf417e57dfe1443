"""CoachHook's section of a report, from a run's journal and steps."""

from __future__ import annotations

import pytest

from easyedit_lifelong import RunRecord
from easyedit_lifelong.methods.coachhook.report import alphas, report_sections

JOURNAL = [
    {"status": "edited", "case_id": case, "batch": 1 + case // 2, "highest_z_score": 2.0 + case} for case in range(4)
]
STEPS = [
    ([{"case_id": 0}, {"case_id": 1}], {"batches": [{"alphas": {"a": 2.0, "b": 1.5}}]}),
    ([{"case_id": 2}], {"batches": [{"alphas": {"a": 9.0}}, {"alphas": {"a": 1.8, "b": 1.25, "c": None}}]}),
]


def test_the_alphas_of_a_step_are_those_of_its_last_batch() -> None:
    assert alphas(RunRecord("CoachHook", journal=JOURNAL, steps=STEPS)) == {
        1: {"a": 2.0, "b": 1.5},
        2: {"a": 1.8, "b": 1.25},
    }
    assert list(alphas(RunRecord("CoachHook", steps=STEPS))) == [1, 2], "without a journal the steps are counted"


def test_the_section_plots_alpha_and_z_scores_by_batch() -> None:
    run = RunRecord("CoachHook", hparams={"alpha_z": 2.2}, journal=JOURNAL, steps=STEPS)
    (section,) = report_sections(run)
    alpha, scores = section.plots
    assert [(series.label, series.muted) for series in alpha.series] == [
        ("other hook layers", True),
        ("last hook layer", False),
    ]
    assert alpha.series[1].points == [(1, 1.5), (2, 1.25)]
    assert "It only falls, from 2.2; at the end it is 1.250 to 1.800." in alpha.caption
    assert scores.series[0].points == [(1, [2.0, 3.0]), (2, [4.0, 5.0])]
    assert scores.series[1].points == [(1, 1.5), (2, 1.25)]


def test_with_a_codebook_the_section_plots_radii_by_batch() -> None:
    journal = [{"status": "edited", "case_id": case, "batch": 1 + case // 2, "radius": 0.1 * case} for case in range(4)]
    hparams = {"scope_score": "codebook"}
    (section,) = report_sections(RunRecord("CoachHook", hparams=hparams, journal=journal, steps=STEPS))
    (radii,) = section.plots
    assert radii.series[0].points == [(1, [0.0, 0.1]), (2, [0.2, pytest.approx(0.3)])]
    (nothing,) = report_sections(RunRecord("CoachHook", hparams=hparams))
    assert not nothing.plots


def test_a_section_without_plots_says_why() -> None:
    (edited_weights,), (nothing,) = (
        report_sections(RunRecord("CoachHook", hparams=hparams)) for hparams in ({"wohk": True}, {})
    )
    assert not edited_weights.plots and "without hook layers" in edited_weights.empty
    assert not nothing.plots and "no z-scores" in nothing.empty
