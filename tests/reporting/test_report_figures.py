"""A report's figures: axes, intervals, styles, and text in SVG files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from easyedit_lifelong.methods.coachhook.report import alphas
from easyedit_lifelong.reporting.report import axes, svg
from easyedit_lifelong.reporting.report.axes import axis_limits, fit_edits
from easyedit_lifelong.reporting.report.figures import score_plots
from easyedit_lifelong.reporting.report.method_sections import method_sections
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.style import figure_options, new_figure, series_style
from tests.support.report_runs import write_run


@pytest.mark.parametrize(("batch", "boxes"), [(4, True), (2, False)])
def test_z_scores_are_boxes_for_few_batches_and_a_band_for_many(tmp_path: Path, batch: int, boxes: bool) -> None:
    run = read_run(write_run(tmp_path / "run", method="CoachHook", edits=100, batch=batch))
    with figure_options():
        ((_, (alpha, scores)),) = method_sections(run)
    assert (alpha.name, scores.name) == ("alpha", "z-scores")
    assert bool(scores.figure.axes[0].collections) != boxes
    drawn = [list(line.get_ydata()) for line in alpha.figure.axes[0].lines]
    by_batch = alphas(run.record()).values()
    assert drawn == [[by_layer[layer] for by_layer in by_batch] for layer in ("model.layers.3", "model.layers.4")]


def test_axis_limits_and_scales_fit_the_values() -> None:
    assert axis_limits([0.2, 0.9]) == axis_limits([]) == (-0.03, 1.03)
    assert axis_limits([-0.2, 0.9]) == (-1.03, 1.03)
    low, high = axis_limits([5.0, 15.0])
    assert low < 5 and high > 15
    with figure_options():
        plot = new_figure().add_subplot()
        fit_edits(plot, [1, 10, 100, 1000])
        assert plot.get_xscale() == "log"
        plot = new_figure().add_subplot()
        fit_edits(plot, [0, 50, 100, 150, 200])
        assert plot.get_xscale() == "linear"


def test_logarithmic_axes_have_plain_number_labels() -> None:
    """Matplotlib's default labels are formulas, which text in an SVG can't show."""
    with figure_options():
        figure = new_figure()
        plot = figure.add_subplot()
        plot.plot([1, 10, 50, 90, 300, 600, 1000, 2000], [0.02, *[0.3] * 6, 0.9])
        axes.fit_values(plot, [0.02, *[0.3] * 6, 0.9], "positive", "seconds")
        assert (plot.get_yscale(), plot.get_ylabel()) == ("log", "seconds (log)")
        fit_edits(plot, [1, 10, 20, 30, 40, 50, 60, 2000])
        figure.canvas.draw()
        labels = [
            label.get_text()
            for axis in (plot.xaxis, plot.yaxis)
            for label in (*axis.get_majorticklabels(), *axis.get_minorticklabels())
        ]
    assert {"0.05", "0.1", "100", "500"} <= set(labels)
    assert all(label == f"{float(label):g}" for label in labels)


def test_an_interval_is_a_band_for_a_curve_and_a_bar_for_a_point(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", edits=40, points=4))
    with figure_options():
        figure = score_plots(run)[0].figure
        band = figure.axes[0].collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(min(pair[0] for _, _, pair in run.points("ES") if pair))
        plot = new_figure().add_subplot()
        axes.draw_curve(plot, [(3, 0.5, (0.4, 0.6))], series_style(0), "x")
        assert [list(path.vertices[:, 1]) for path in plot.collections[0].get_paths()] == [[0.4, 0.6]]


def test_a_caption_says_what_the_bootstrap_draws(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", edits=40, points=4))
    for entry in run.curve:
        entry["ARR"] = 1.0
    with figure_options():
        captions = {plot.name: plot.caption for plot in score_plots(run)}
        run.summary["protocol"] = "single-round"
        single_round = {plot.name: plot.caption for plot in score_plots(run)}
    over = "Bands are 95 % bootstrap intervals over requests"
    assert f"{over} (TRR: held-out facts; ARR: requests and held-out facts)." in captions["scores-grace"]
    assert f"{over}." in captions["scores-easyedit"]
    assert f"{over} (TRR: batches)." in single_round["scores-grace"]


def test_forty_runs_have_forty_different_styles() -> None:
    styles = [tuple(map(str, series_style(n).values())) for n in range(40)]
    assert len(set(styles)) == 40
    assert len({colour for colour, _, _ in styles[:7]}) == 7


def test_svg_figures_are_reproducible_and_keep_text_as_text(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", edits=10))
    with figure_options():
        first, second = (svg.svg_text(score_plots(run)[0].figure) for _ in range(2))
    assert first == second
    texts = [text.text for text in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}text")]
    assert {"ES", "ERR", "TRR", "number of edits"} <= set(texts)


def test_text_with_characters_that_xml_does_not_allow_is_drawn(tmp_path: Path) -> None:
    with figure_options():
        figure = new_figure()
        figure.subplots().set_xticks([0], ["a\x1b[2Jb\x00\ufffe"])
        root = ElementTree.fromstring(svg.inline(figure, "p", "a figure"))
        saved, _ = svg.save(figure, tmp_path / "figure")
    assert "a\ufffd[2Jb\ufffd\ufffd" in [text.strip() for text in root.itertext()]
    ElementTree.parse(saved)
