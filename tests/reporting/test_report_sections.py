"""Sections that methods add to a report: how they are requested, drawn, and left out where a method has none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from matplotlib.axes import Axes

from easyedit_lifelong import EditMethod, ReportPlot, ReportSection, RunRecord, Series, get_plugins, hookimpl
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.reporting.report.method_sections import draw_plot, method_sections
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.style import MUTED, figure_options, series_style
from tests.support.report_runs import write_run

Port = Callable[[RunRecord], Sequence[ReportSection]]


@pytest.fixture
def register() -> Iterator[Callable[[Port], None]]:
    """Return a function that registers a method called Drawn with this port."""
    plugins = get_plugins()

    def add(port: Port) -> None:
        method = EditMethod("Drawn", SimpleNamespace, lambda *_: (None, None), report_sections=port)
        plugin = ModuleType("drawn")
        plugin.register_methods = hookimpl(lambda register: register(method))  # type: ignore[attr-defined]
        plugins.add(plugin, "drawn")

    yield add
    plugins.remove("drawn")


def page_of(out: Path, *folders: Path) -> str:
    assert main(["report", *map(str, folders), "--out", str(out)]) == 0
    return (out / "report.html").read_text(encoding="utf-8")


def plot_of(*series: Series, **changes: Any) -> ReportPlot:
    given = {"name": "p", "title": "t", "caption": "c.", "alt": "a", "y_label": "y", "series": series, **changes}
    return ReportPlot(**given)


def axes_of(*series: Series, **changes: Any) -> Axes:
    with figure_options():
        return draw_plot(plot_of(*series, **changes)).figure.axes[0]


def test_a_plugins_sections_are_on_the_page(tmp_path: Path, register: Callable[[Port], None]) -> None:
    records: list[RunRecord] = []

    def port(run: RunRecord) -> list[ReportSection]:
        records.append(run)
        stored = Series("stored", [(n, 2.0 * n) for n, _ in run.edits("seconds")])
        plot = plot_of(stored, name="stored", title="Stored <edits>", comparison="Stored by run")
        return [ReportSection("memory", "Memory", [plot], ""), ReportSection("rest", "R", [], "No `a<b` here.")]

    register(port)
    runs = [write_run(tmp_path / name, method="Drawn", edits=6, points=2) for name in "ab"]
    html = page_of(tmp_path / "one", runs[0])
    assert '<li><a href="#memory">Memory</a></li><li><a href="#rest">R</a></li>' in html
    assert '<h2 id="memory-title">Memory</h2>' in html and "<h3>Stored &lt;edits&gt;</h3>" in html
    assert 'aria-label="a. c."' in html
    assert '<p class="empty">No <code>a&lt;b</code> here.</p>' in html
    assert (tmp_path / "one" / "stored.svg").is_file()
    (record,) = records
    assert (record.method, len(record.journal), len(record.curve)) == ("Drawn", 6, 2)
    assert record.hparams["batch_size"] == 1 and record.config["schema_version"] == 2
    compared = page_of(tmp_path / "both", *runs)
    assert "<h3>Stored by run</h3>" in compared and "Drawn · a 12; Drawn · b 12" in compared
    assert (tmp_path / "both" / "compare-stored.png").is_file()


@pytest.mark.parametrize("method", ["Unknown", "MEMIT"])
def test_an_unknown_method_or_one_without_sections_adds_none(tmp_path: Path, method: str) -> None:
    run = read_run(write_run(tmp_path / "run", method=method, edits=4))
    run.journal[0]["radius"] = run.journal[0]["n_keys"] = 1.0
    with figure_options():
        assert method_sections(run) == []
    assert run.notes == []


def failing_port(_: RunRecord) -> list[ReportSection]:
    raise KeyError("alphas")


def malformed_port(_: RunRecord) -> list[ReportSection]:
    return [ReportSection("s", "S", [plot_of(Series("x", [(1, 2, 3)]))], "")]  # type: ignore[list-item]


@pytest.mark.parametrize("port", [failing_port, malformed_port])
def test_a_failing_port_loses_only_its_sections(
    tmp_path: Path, register: Callable[[Port], None], port: Port, capsys: pytest.CaptureFixture[str]
) -> None:
    register(port)
    html = page_of(tmp_path / "page", write_run(tmp_path / "run", method="Drawn", edits=4))
    assert '<p class="note">The figures of Drawn can&#39;t be drawn: ' in html and '<section id="time"' in html
    assert "The figures of Drawn can't be drawn" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "ä"])
def test_section_and_plot_names_must_be_valid_file_and_anchor_names(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a section or plot"):
        plot_of(name=name)
    with pytest.raises(ValueError, match="is no name of a section or plot"):
        ReportSection(name, "title", [], "")


def test_series_are_drawn_as_lines_points_or_references() -> None:
    axes = axes_of(
        Series("a", [(1, 1.0), (4, 2.0)], style=2, marker=""),
        Series("b", [(1, 1.0), (2, 2.0)], "points", style=1),
        Series("c", [(0, 0.0), (4, 4.0)], "reference"),
        Series("d", [(1, 3.0), (2, 2.0)], muted=True),
        Series("left out", []),
    )
    line, points, reference, muted = axes.lines
    assert (line.get_color(), line.get_marker()) == (series_style(2)["color"], "")
    assert (points.get_linestyle(), points.get_marker()) == ("None", series_style(1)["marker"])
    assert reference.get_color() == muted.get_color() == MUTED
    assert reference.get_linestyle() != "-" and muted.get_linestyle() == "-"
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["a", "b", "c", "d"]
    assert axes.get_xlim()[0] < 0 < 4 < axes.get_xlim()[1] < 5


def test_many_points_are_small_and_thinned() -> None:
    few, many = (axes_of(Series("a", [(n, 1.0) for n in range(count)], "points")).lines[0] for count in (150, 2000))
    assert many.get_markersize() < few.get_markersize()
    assert len(many.get_xdata()) == 800 and many.get_xdata()[-1] == 1999


def test_a_band_spans_its_lower_and_upper_values() -> None:
    axes = axes_of(Series("band", [(1, (0.0, 2.0)), (2, (1.0, 5.0))], "band"), y_axis="positive")
    vertices = axes.collections[0].get_paths()[0].vertices
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (0.0, 5.0)
    assert axes.get_ylim() == pytest.approx((0, 5.5))


@pytest.mark.parametrize(("n_places", "boxes"), [(40, True), (41, False)])
def test_a_distribution_is_boxes_for_up_to_40_places_and_a_band_for_more(n_places: int, boxes: bool) -> None:
    axes = axes_of(Series("median", [(n, [1.0, 9.0, 4.0]) for n in range(1, n_places + 1)], "distribution"))
    assert bool(axes.collections) != boxes
    assert (axes.get_legend_handles_labels()[1] == ["median"]) != boxes
    medians = {y for line in axes.lines for y in line.get_ydata() if len(set(line.get_ydata())) == 1}
    assert 4.0 in medians
    assert axes.get_xlim()[1] > n_places + 0.5


@pytest.mark.parametrize(
    ("y_axis", "values", "limits", "label"),
    [
        ("zero", [5.0, 10.0], (0, 10.5), "y"),
        ("zero", [0.0, 0.0], (0, 1.05), "y"),
        ("positive", [5.0, 10.0], (0, 11), "y"),
        ("positive", [0.01, 10.0], None, "y (log)"),
        ("data", [5.0, 10.0], None, "y"),
    ],
)
def test_the_y_axis_has_the_requested_limits_and_scale(
    y_axis: Any, values: list[float], limits: tuple[float, float] | None, label: str
) -> None:
    axes = axes_of(Series("a", list(enumerate(values))), y_axis=y_axis)
    assert axes.get_ylabel() == label
    assert axes.get_yscale() == ("log" if "log" in label else "linear")
    assert limits is None or axes.get_ylim() == pytest.approx(limits)


def test_counts_come_from_edits_and_otherwise_from_scorings() -> None:
    journal = [{"status": "edited", "n": 3}, {"status": "failed", "n": 9}, {"status": "edited", "n": None}]
    curve = [{"n_edits": 10, "n": 4}, {"n_edits": 20}, {"n_edits": 30, "n": float("nan")}]
    assert RunRecord("m", journal=journal, curve=curve).counts("n") == [(1.0, 3.0)]
    assert RunRecord("m", journal=journal[1:2], curve=curve).counts("n") == [(10.0, 4.0)]


def test_importing_a_methods_sections_imports_no_plotting() -> None:
    code = (
        "import sys, easyedit_lifelong.methods.grace.report, easyedit_lifelong.methods.coachhook.report\n"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'easyedit_lifelong.reporting', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
