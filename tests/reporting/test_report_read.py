"""Run folders are read for a report: of old and new versions, unfinished and damaged; other folders are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.coachhook.report import alphas, z_scores
from easyedit_lifelong.reporting.report import history
from easyedit_lifelong.reporting.report.generations import failures, printable, side_by_side, worst_first
from easyedit_lifelong.reporting.report.names import differing_settings, run_names
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.run_files import RunFiles
from tests.support.report_runs import write_lines, write_run


def test_a_finished_run_is_read_completely(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", edits=20, failed=2))
    assert (run.method, run.model, run.data) == ("GRACE", "smollm2-135m", "facts.json")
    assert (run.n_edits, run.n_failed, run.n_requests, run.finished) == (20, 2, 22, True)
    assert [x for x, _, _ in run.points("ERR")] == [5, 10, 15, 20]
    value, interval = run.points("ERR")[-1][1:]
    assert interval is not None and interval[0] < value < interval[1]
    assert run.scores()["ERR"] == value and run.scores()["TRR_before"] == 0.61
    assert run.intervals()["ERR"] == interval
    assert run.notes == []
    assert [row[:2] for row in failures(run)] == [("9000", "failed"), ("9001", "failed")]


def test_a_methods_details_in_the_first_versions_journal_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: GRACE\nmodel: m\ndata: /d/x.json\nn_requests: 2\n")
    detail = {"decision": "add", "radius": 1.0, "nearest_distance": None, "n_keys": 1, "batch": 7}
    write_lines(
        tmp_path / "journal.jsonl",
        [
            {"status": "edited", "batch": 1, "n_edits": 1, "seconds": 2.0, "detail": detail},
        ],
    )
    run = read_run(tmp_path)
    assert run.record().counts("n_keys") == [(1, 1)]
    assert run.journal[0]["batch"] == 1, "the method's batch replaced the run's"
    assert run.timing == {"seconds_per_edit": 2.0, "seconds_editing": 2.0}
    assert run.notes[0] == "This run isn't finished: its journal has 1 of 2 requests."
    assert "There is no metrics.jsonl." in run.notes


def test_torn_and_broken_lines_are_skipped_and_noted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", edits=6, points=2)
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], "{broken", "[1]", *lines[3:]]) + '\n{"status": "edi')
    (folder / "summary.json").write_text("{")
    run = read_run(folder)
    assert len(run.journal) == 4
    assert "journal.jsonl: 3 lines, the first of them line 2, can't be read and are left out." in run.notes
    assert "summary.json isn't valid JSON." in run.notes
    assert not run.finished and run.scores() == {k: v for k, v in run.scores().items() if "before" not in k}


@pytest.mark.parametrize(
    "junk",
    [
        *("null", "[]", '{"n_edits": "x", "ERR": "high"}', '{"n_edits": 1, "ERR": NaN}'),
        f'{{"n_edits": {10**400}, "ERR": 0.5}}',  # beyond the largest float
    ],
)
def test_values_that_are_not_numbers_are_not_scores(tmp_path: Path, junk: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(junk + "\n")
    assert read_run(tmp_path).points("ERR") == []


def test_a_later_scoring_replaces_an_earlier_one_of_the_same_point(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"n_edits": 5, "ERR": 0.1}, {"n_edits": 5, "ERR": 0.9}])
    assert read_run(tmp_path).points("ERR") == [(5, 0.9, None)]


def test_malformed_intervals_are_ignored(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"n_edits": 5, "ERR": 0.1, "intervals": {"ERR": [0.0], "x": 3}}])
    assert read_run(tmp_path).points("ERR") == [(5, 0.1, None)]


def test_a_path_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file, not the folder of a run"):
        read_run(tmp_path / "file")
    with pytest.raises(RunError, match=r"holds no run \(none of config.yaml") as caught:
        read_run(tmp_path)
    assert "Did you mean" not in str(caught.value)
    write_run(tmp_path / "demo" / "GRACE")
    with pytest.raises(RunError, match=r"Did you mean .*demo/GRACE\?"):
        read_run(tmp_path / "demo")


def test_alphas_and_z_scores_are_read_by_batch(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", method="CoachHook", edits=20, batch=5))
    scores, by_batch = z_scores(run.record()), alphas(run.record())
    assert list(scores) == list(by_batch) == [1, 2, 3, 4]
    assert {len(batch) for batch in scores.values()} == {5}
    assert by_batch[2] == {"model.layers.3": 1.95, "model.layers.4": 2.04}
    index = tmp_path / "run" / "state" / "batch-000001" / "coachhook.json"
    index.write_text(json.dumps({"batches": [{"file": "x"}]}))
    run = read_run(tmp_path / "run")
    assert alphas(run.record()) == {}
    assert any("aren't shown" in note for note in run.notes)


def test_running_medians_and_thinned_points_keep_both_ends() -> None:
    points = [(float(n), float(n % 2) * 100) for n in range(1000)]
    median = history.running_median([(0, 1), (1, 50), (2, 3), (3, 9), (4, 7)])  # over five points, two on each side
    assert median == [(0, 3), (1, 6), (2, 7), (3, 8), (4, 7)]
    thinned = history.thinned(points, 100)
    assert len(thinned) == 100 and thinned[0] == points[0] and thinned[-1] == points[-1]
    assert history.thinned(points[:5]) == points[:5]


def test_the_worst_cases_come_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", edits=4)
    answers = {"before": "b", "target_new": "t"}
    write_lines(
        folder / "journal.jsonl",
        [{"status": "edited", "case_id": n, "ES": success} for n, success in enumerate([1.0, 0.5, 1.0, 1.0, 1.0])],
    )
    write_lines(
        folder / "generations.jsonl",
        [
            {
                "case_id": 0,
                "prompt": "fine",
                "after": "T!",
                "match": True,
                "rephrase": [["r", "b", "t", True]],
                **answers,
            },
            {"case_id": 1, "prompt": "low ES", "after": "t", "match": True, **answers},
            {
                "case_id": 2,
                "prompt": "misses a rephrasing",
                "after": "t",
                "match": True,
                "rephrase": [["r", "b", "x", False]],
                **answers,
            },
            {"case_id": 3, "prompt": "misses", "after": "x", "match": False, **answers},
            {
                "case_id": 4,
                "prompt": "misses more",
                "after": "x",
                "match": False,
                "rephrase": [["r", "b", "x", False]],
                **answers,
            },
        ],
    )
    cases = worst_first(read_run(folder))
    assert [case.answer.prompt for case in cases] == ["misses more", "misses", "low ES", "misses a rephrasing", "fine"]
    assert cases[-1].answer.parts == [("T", True), ("!", False)]
    rows = side_by_side([cases, [case for case in cases if case.answer.prompt != "fine"]])
    assert rows[0][0] is cases[0] and rows[-1] == [cases[-1], None]


def test_characters_that_a_page_cannot_hold_are_replaced() -> None:
    assert printable("a\n b\x00\ud800\t c") == "a b\ufffd\ufffd c"


def test_runs_are_named_by_what_differs_between_them(tmp_path: Path) -> None:
    def run(folder: str, method: str = "GRACE", model: str = "m", **hparams: object) -> RunFiles:
        return RunFiles(tmp_path / folder, {"method": method, "model": model, "hparams": hparams})

    assert run_names([run("a"), run("b", "MEMIT")]) == ["GRACE", "MEMIT"]
    assert run_names([run("a", "CoachHook"), run("b", "CoachHook", wohk=True)]) == [
        "CoachHook",
        "CoachHook without hooks",
    ]
    assert run_names([run("a"), run("b", model="x/n")]) == ["GRACE · m", "GRACE · n"]
    assert run_names([run("a"), run("b"), run("c", "FT")]) == ["GRACE · a", "GRACE · b", "FT"]
    assert run_names([run("a/r"), run("b/r")]) == ["GRACE · a/r", "GRACE · b/r"]
    assert run_names([run("a"), run("a")])[1].endswith("(2)")


def test_only_settings_that_differ_are_listed(tmp_path: Path) -> None:
    first = RunFiles(tmp_path, {"a": 1, "hparams": {"eps": 1.0, "lr": 2}, "recorded": {"started": "x"}})
    second = RunFiles(tmp_path, {"a": 1, "hparams": {"eps": 3.0}, "recorded": {"started": "y"}})
    assert differing_settings([first, second]) == {"hparams.eps": ["1.0", "3.0"], "hparams.lr": ["2", "-"]}
