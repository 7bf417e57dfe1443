"""A report's page: it is complete and self-contained, escapes what a run holds, and names what is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from easyedit_lifelong.commands.main import main
from easyedit_lifelong.reporting.report.figures import score_plots
from easyedit_lifelong.reporting.report.generations import MAX_FOLDED, MAX_SHOWN
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.score_rows import main_names
from easyedit_lifelong.reporting.report.style import figure_options
from tests.support.report_runs import write_lines, write_run

ALWAYS = ["scores", "time", "generations", "config", "versions"]


class Page(HTMLParser):
    """The tags, ids, sections, links and text of a page."""

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
    assert len(page.ids) == len(set(page.ids)), "two elements have the same id"
    for reference in re.findall(r"url\(#([^)]+)\)", html) + [link[1:] for link in page.links if link[0] == "#"]:
        assert reference in page.ids
    assert not re.search(r"(?:fill|stroke): #(?!0{6})[0-9a-f]{6}", html), "a colour doesn't follow the theme"


def test_the_page_of_a_single_round_run_says_what_it_lacks(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "protocol": "single-round"}))
    (folder / "generations.jsonl").unlink()
    text = make_report(folder)[0].text
    assert "the run is single-round, and such runs store none" in text and "isn't finished" not in text
    assert "they don't say what the model retains of earlier batches" in text


def test_the_page_has_the_notes_about_the_data(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    notes = ["facts.json: prompts with several targets (1): <b>0</b>.", 7]
    (folder / "summary.json").write_text(json.dumps({**summary, "data_notes": notes}))
    assert "facts.json: prompts with several targets (1): <b>0</b>." in make_report(folder)[0].text


def test_pages_name_the_machine_and_warn_of_times_of_different_ones(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, method=name) for name in "ab"]
    assert "machines differ" not in make_report(*folders, out=tmp_path / "both.html")[0].text
    for threads, folder in enumerate(folders, 1):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "machine": {"device": "cpu", "threads": threads}}))
    assert "cpu, 2 threads" in make_report(folders[1])[0].text
    text = make_report(*folders, out=tmp_path / "both.html")[0].text
    assert "machines differ (cpu, 1 thread; cpu, 2 threads): don't compare their times." in text


def test_the_page_says_that_scores_are_those_of_a_sample(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", edits=40)
    assert "sample" not in make_report(folder)[0].text
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write_lines(folder / "metrics.jsonl", [*lines[:-1], {**lines[-1], "sampled": 7}])
    assert "scores of a sample of 7 (ES: of all)" in make_report(folder)[0].text


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
    assert "empty" not in re.findall(r'<p class="(\w+)"', html), "a section of a finished run is empty"
    assert "95 % bootstrap intervals" in html
    assert "torch" in page.text and "hparams.alg_name" in page.text and "alg_name: " in page.text
    assert "32 of 40 answers match" in page.text


def test_hundreds_of_cases_are_capped_and_the_rest_counted(tmp_path: Path) -> None:
    page, html, _ = make_report(write_run(tmp_path / "run", edits=400))
    assert page.text.count("rephrased: ") == MAX_SHOWN + MAX_FOLDED
    assert f"{400 - MAX_SHOWN - MAX_FOLDED} more are not shown" in page.text
    assert html.index("something else") < html.index("✓ yes"), "the worst case isn't first"
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
    markup = "<script>alert(1)</script>\u202e\x00 & $x_1$"
    folder = write_run(tmp_path / "a & <b>", model=markup, edits=3)
    write_lines(
        folder / "generations.jsonl",
        [
            {
                "case_id": markup,
                "prompt": markup,
                "target_new": markup,
                "before": markup,
                "after": markup,
                "match": False,
                "rephrase": [[markup, markup, markup, False], ["too", "short"]],
            }
        ],
    )
    page, html, _ = make_report(folder)
    assert_self_contained(page, html)
    assert "<script" not in html and "&lt;script&gt;" in html
    second = write_run(tmp_path / "b", model=markup, edits=3)
    page, html, _ = make_report(folder, second, out=tmp_path / "side" / "report.html")
    assert_self_contained(page, html)
    assert "<script" not in html


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
    assert page.sections == ["overview", "scores", "curves", "generations", "runs", "config", "versions"]
    assert "CoachHook without hooks" in page.text
    assert "different numbers of edits" in page.text
    assert "Not finished: w" in page.text
    files = {file.name for file in tmp_path.glob("all-*")}
    assert {"all-table.md", "all-table.tex", "all-compare-ERR.svg", "all-compare-ERR.png"} <= files
    assert all(f"all-compare-{name}.svg" in files for name in ("TRR", "generality", "locality", "seconds", "keys"))
    assert "all-compare-reliability.svg" not in files, "reliability equals ERR, so it has no figure"
    assert str(path) in capsys.readouterr().out


def test_relation_specificity_is_shown_after_locality(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    assert "relation_specificity" not in main_names([read_run(folder)]), "a run without this score has it"
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


def test_out_names_a_folder_or_an_html_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", edits=3)
    assert main(["report", str(run), "--out", str(tmp_path / "site")]) == 0
    assert (tmp_path / "site" / "report.html").is_file() and (tmp_path / "site" / "keys.svg").is_file()
    assert main(["report", str(run), "--out", str(tmp_path / "site")]) == 0, "an earlier report isn't replaced"
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
