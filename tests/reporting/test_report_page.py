"""A report's page, figures and tables: whole, self-contained, and honest about what isn't there."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from easyedit_lifelong.commands.main import main
from easyedit_lifelong.methods.coachhook.report import alphas
from easyedit_lifelong.reporting.report import axes, svg
from easyedit_lifelong.reporting.report.axes import axis_limits, fit_edits
from easyedit_lifelong.reporting.report.comparison_table import compare, latex_table, markdown_table
from easyedit_lifelong.reporting.report.figures import score_plots
from easyedit_lifelong.reporting.report.generations import MAX_FOLDED, MAX_SHOWN
from easyedit_lifelong.reporting.report.method_sections import method_sections
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.score_rows import SECONDS, best, main_names, shown
from easyedit_lifelong.reporting.report.style import figure_options, new_figure, series_style
from tests.support.report_runs import write_lines, write_run

ALWAYS = ["scores", "time", "generations", "config", "versions"]


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sections: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.sections += [given["id"]] if tag == "section" else []
        self.links += [given[name] for name in ("href", "src", "xlink:href", "srcset", "action") if name in given]
        if tag == "svg":
            assert given["role"] == "img" and given["aria-label"]

    def handle_data(self, data: str) -> None:
        self.text += data


def make_report(*folders: Path, out: Path | None = None) -> tuple[Page, str, Path]:
    page = out or folders[0] / "report" / "report.html"
    assert main(["report", *map(str, folders), *([] if out is None else ["--out", str(out)])]) == 0
    html = page.read_text(encoding="utf-8")
    return Page(html), html, page


def assert_self_contained(page: Page, html: str) -> None:
    assert not {"script", "iframe", "object", "img"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"(?:https?:)?//(?!www\.w3\.org)", re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL))
    assert len(page.ids) == len(set(page.ids)), "ids of two figures clash"
    for reference in re.findall(r"url\(#([^)]+)\)", html) + [link[1:] for link in page.links if link[0] == "#"]:
        assert reference in page.ids
    assert not re.search(r"(?:fill|stroke): #(?!0{6})[0-9a-f]{6}", html), "a colour that doesn't follow the theme"


@pytest.mark.parametrize(
    ("method", "own", "figures"),
    [
        ("GRACE", ["codebook"], {"scores-grace", "scores-easyedit", "keys", "radii", "seconds"}),
        ("CoachHook", ["hooks"], {"scores-grace", "scores-easyedit", "alpha", "z-scores", "seconds"}),
        ("MEMIT", [], {"scores-grace", "scores-easyedit", "seconds"}),
    ],
)
def test_the_page_of_a_finished_run_has_every_section_and_figure(
    tmp_path: Path, method: str, own: list[str], figures: set[str]
) -> None:
    page, html, path = make_report(write_run(tmp_path / "run", method=method, edits=40, batch=10))
    assert page.sections == ["scores", *own, "time", "generations", "config", "versions"]
    assert_self_contained(page, html)
    assert {file.stem for file in path.parent.glob("*.svg")} == figures
    assert {file.stem for file in path.parent.glob("*.png")} == figures
    assert page.tags.count("svg") == len(figures)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in path.parent.glob("*.png"))
    assert "empty" not in re.findall(r'<p class="(\w+)"', html), "nothing is missing"
    assert "95 % bootstrap intervals" in html
    assert "torch" in page.text and "hparams.alg_name" in page.text and "alg_name: " in page.text
    assert "32 of 40 answers match" in page.text


def test_hundreds_of_cases_are_capped_and_the_rest_counted(tmp_path: Path) -> None:
    page, html, _ = make_report(write_run(tmp_path / "run", edits=400))
    assert page.text.count("rephrased: ") == MAX_SHOWN + MAX_FOLDED
    assert f"{400 - MAX_SHOWN - MAX_FOLDED} more are not shown" in page.text
    assert html.index("something else") < html.index("✓ yes"), "the worst first"
    assert len(html) < 1_000_000


@pytest.mark.parametrize("kind", ["nothing", "journal", "cut", "no edits", "all failed", "one point", "junk"])
def test_the_page_of_an_incomplete_run_names_what_is_missing(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    if kind == "nothing":
        folder.mkdir()
        (folder / "config.yaml").write_text("")
    elif kind == "journal":
        folder.mkdir()
        write_lines(folder / "journal.jsonl", [{"status": "edited", "case_id": 1}, {"status": "failed"}])
    elif kind == "cut":
        write_run(folder, edits=7, points=2, finished=False)
    elif kind == "no edits":
        write_run(folder, edits=0, points=0)
    elif kind == "all failed":
        write_run(folder, edits=0, points=0, failed=5)
    elif kind == "one point":
        write_run(folder, edits=1, points=1)
    else:
        folder.mkdir()
        for name in ("config.yaml", "summary.json", "journal.jsonl", "metrics.jsonl", "generations.jsonl"):
            (folder / name).write_text(
                '{"metrics": 3, "data": [], "hparams": 7, "timing": [], "versions": 1, "n_edits": 2}\n'
            )
    page, html, _ = make_report(folder)
    assert_self_contained(page, html)
    assert set(ALWAYS) <= set(page.sections)
    if kind in ("nothing", "journal", "cut"):
        assert "This run isn't finished" in page.text
    if kind in ("nothing", "no edits", "all failed"):
        assert "Nothing " in page.text and "scored" in page.text
    if kind == "all failed":
        assert "the loss is NaN" in page.text
    if kind == "one point":
        assert "so there are no curves" in page.text


def test_markup_in_a_run_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\u202e\x00 & $x_1$"
    folder = write_run(tmp_path / "a & <b>", model=evil, edits=3)
    write_lines(
        folder / "generations.jsonl",
        [
            {
                "case_id": evil,
                "prompt": evil,
                "target_new": evil,
                "before": evil,
                "after": evil,
                "match": False,
                "rephrase": [[evil, evil, evil, False], ["too", "short"]],
            }
        ],
    )
    page, html, _ = make_report(folder)
    assert_self_contained(page, html)
    assert "<script" not in html and "&lt;script&gt;" in html
    other = write_run(tmp_path / "b", model=evil, edits=3)
    page, html, _ = make_report(folder, other, out=tmp_path / "side" / "report.html")
    assert_self_contained(page, html)
    assert "<script" not in html


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


def test_several_runs_share_one_page_with_tables_and_comparisons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        write_run(tmp_path / "g", edits=30),
        write_run(tmp_path / "c", method="CoachHook", edits=20, batch=5, seed=1),
        write_run(tmp_path / "w", method="CoachHook", edits=20, batch=5, seed=2, wohk=True, finished=False),
    ]
    page, html, path = make_report(*folders, out=tmp_path / "all.html")
    assert_self_contained(page, html)
    assert page.sections == ["runs", "scores", "curves", "generations", "config", "versions"]
    assert "CoachHook without hooks" in page.text
    assert "different numbers of edits" in page.text
    assert "Not finished: w" in page.text
    files = {file.name for file in tmp_path.glob("all-*")}
    assert {"all-table.md", "all-table.tex", "all-compare-ERR.svg", "all-compare-ERR.png"} <= files
    assert all(f"all-compare-{name}.svg" in files for name in ("TRR", "generality", "locality", "seconds", "keys"))
    assert "all-compare-reliability.svg" not in files, "that is ERR"
    assert str(path) in capsys.readouterr().out


def test_relation_specificity_is_shown_after_locality(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    assert "relation_specificity" not in main_names([read_run(folder)]), "a run that doesn't ask it has none"
    curve = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write_lines(folder / "metrics.jsonl", [{**point, "relation_specificity": 0.321} for point in curve])
    run = read_run(folder)
    names = main_names([run])
    assert names[names.index("locality") + 1] == "relation_specificity"
    with figure_options():
        (plot,) = (plot for plot in score_plots(run) if plot.name == "scores-easyedit")
        labels = [line.get_label() for line in plot.figure.axes[0].lines]
    assert "relation_specificity" in labels and "locality" in labels
    page, html, _ = make_report(folder)
    assert_self_contained(page, html)
    assert "0.321" in page.text


def test_comparison_tables_escape_names_and_mark_the_best_value(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, method=name, edits=10, seed=n)) for n, name in enumerate("ab")]
    table = compare(runs, ["50% & a_b", "x|y"])
    markdown, latex = markdown_table(table).splitlines(), latex_table(table)
    assert [cell.strip() for cell in markdown[0].split("|")[1:-1]] == [
        "run",
        "edits",
        *(f"{name} {'↓' if name == SECONDS else '↑'}" for name in table.metrics),
    ]
    assert markdown[2].startswith("| 50% & a\\_b | 10 | ") and markdown[3].startswith("| x\\|y | 10 | ")
    assert len(markdown) == 4
    body = latex[latex.index("\\midrule") : latex.index("\\bottomrule")].splitlines()[1:]
    assert body[0].startswith(r"50\% \& a\_b & 10 & ")
    assert all(len(re.split(r"(?<!\\)&", row)) == 2 + len(table.metrics) for row in body)
    at = table.metrics.index("ERR")
    value, interval = runs[0].scores()["ERR"], runs[0].intervals()["ERR"]
    assert table.cells[0][at].value == f"{value:.3f}"
    assert f"{{\\scriptsize [{interval[0]:.3f}, {interval[1]:.3f}]}}" in body[0]
    higher = 0 if value > runs[1].scores()["ERR"] else 1
    assert [row[at].best for row in table.cells] == [higher == 0, higher == 1]
    assert f"\\textbf{{{table.cells[higher][at].value}}}" in body[higher]


def test_the_best_value_depends_on_the_metrics_direction() -> None:
    assert best("ERR", [0.5, 0.9, None, 0.9]) == {1, 3}
    assert best("text_perplexity", [5.0, 9.0]) == {0}
    assert best(SECONDS, [5.0, 9.0]) == {0}
    assert best("ERR", [0.9, 0.9]) == set(), "all the same"
    assert best("ERR", [0.9, None]) == set(), "nobody to be better than"
    assert best("unheard of", [0.1, 0.9]) == set()


def test_scores_are_rounded_by_size_and_counts_are_whole_numbers() -> None:
    assert [shown(x) for x in (0.12345, 12.345, 1234.5)] == ["0.123", "12.35", "1,234"]
    assert shown(20.0, "n_keys") == "20"


def test_reliability_is_omitted_where_it_equals_err(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", edits=4))
    assert "reliability" not in main_names([run])
    run.summary["metrics"]["reliability"] = 0.123
    assert "reliability" in main_names([run])


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
    """Matplotlib's own are formulas, which text in an SVG can't show."""
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


def test_forty_runs_have_forty_different_styles() -> None:
    looks = [tuple(map(str, series_style(n).values())) for n in range(40)]
    assert len(set(looks)) == 40
    assert len({colour for colour, _, _ in looks[:7]}) == 7


def test_svg_figures_are_reproducible_and_keep_text_as_text(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", edits=10))
    with figure_options():
        first, second = (svg.svg_text(score_plots(run)[0].figure) for _ in range(2))
    assert first == second
    texts = [text.text for text in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}text")]
    assert {"ES", "ERR", "TRR", "number of edits"} <= set(texts)


def test_out_names_a_folder_or_an_html_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", edits=3)
    assert main(["report", str(run), "--out", str(tmp_path / "site")]) == 0
    assert (tmp_path / "site" / "report.html").is_file() and (tmp_path / "site" / "keys.svg").is_file()
    assert main(["report", str(run), "--out", str(tmp_path / "site")]) == 0, "a report is made anew"
    assert main(["report", str(run), "--out", str(tmp_path / "one.html")]) == 0
    assert (tmp_path / "one.html").is_file() and (tmp_path / "one-keys.png").is_file()
    capsys.readouterr()
    (tmp_path / "taken").touch()
    assert main(["report", str(run), "--out", str(tmp_path / "taken")]) == 1
    assert "is a file whose name doesn't end in .html" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(tmp_path / "taken" / "x.html")]) == 1
    assert "can't be written" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "site")]) == 1
    assert "holds no run" in capsys.readouterr().err
