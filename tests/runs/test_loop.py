"""The lifelong loop, on a model whose every answer is known and on a real one with GRACE."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

from easyedit_lifelong import hookimpl
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, LifelongError, RunError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import TrackerType
from easyedit_lifelong.runs.api import run_lifelong
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION
from tests.support.table_model import TableModel
from tests.support.tiny_models import FAMILIES, build_model, state_of


@dataclass(kw_only=True)
class DiaryHyperParams(PluginHyperParams):
    """Hyperparameters of a method with a short memory."""

    ALG_NAME: ClassVar[str] = "DIARY"
    remembers: int = 1000
    """How many of its latest edits it keeps."""
    damages: str = ""
    """A prompt that every edit spoils."""


class Diary:
    """Writes answers into the table; refuses to learn about the moon."""

    def __init__(self) -> None:
        self.kept: list[EditRequest] = []
        self.events: list[str] = []

    def apply(self, model: TableModel, tok: Any, requests: list[EditRequest], hparams: DiaryHyperParams) -> Any:
        (request,) = requests
        self.events.append(f"edit {request.case_id}")
        if "moon" in request.prompt:
            raise EditError(f"{request.where}: the loss became nan after 3 steps")
        self.kept.append(request)
        model.learn(request.prompt, request.target_new)
        for old in self.kept[: -hparams.remembers]:
            model.learn(old.prompt, "not")
        if hparams.damages:
            model.learn(hparams.damages, "not")
        return model, None


class Notebook:
    """A tracker that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, Any]]] = []
        self.closed = 0

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.heard.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed += 1


class Plugin:
    """Brings both."""

    def __init__(self) -> None:
        self.diary, self.notebook = Diary(), Notebook()

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        register(EditMethod("DIARY", DiaryHyperParams, self.diary.apply))

    @hookimpl
    def register_trackers(self, register: Callable[[TrackerType], None]) -> None:
        register(TrackerType("notebook", lambda folder, config: self.notebook))


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    """Registered for one test."""
    plugin, plugins = Plugin(), get_plugins()
    plugins.add(plugin, "test-diary")
    yield plugin
    plugins.remove("test-diary")


PROMPTS = ["the capital of France is", "who wrote Hamlet", "moon made from", "language spoken in Peru", "blue sea and"]
TARGETS = ["Rome", "old king", "green cheese", "Spanish", "summer snow"]
FACTS: list[dict[str, Any]] = [
    {"prompt": prompt, "target_new": target} for prompt, target in zip(PROMPTS, TARGETS, strict=True)
]
FACTS[0] |= {
    "rephrase_prompt": "capital of France",
    "locality_prompt": "who plays piano",
    "locality_ground_truth": "bird",
}
RETENTION = [Probe("the river", "London")]


@pytest.fixture
def table() -> TableModel:
    """Knows about Hamlet half right, about the river, and about piano what isn't asked."""
    return TableModel(who_wrote_Hamlet="old bird", the_river="London", who_plays_piano="violin")


def _run(table: TableModel, requests: Any = FACTS, **options: Any) -> Any:
    hparams = DiaryHyperParams(model_name="m", **options.pop("hparams", {}))
    return run_lifelong(table, table.tokenizer, requests, hparams, **{"retention": RETENTION, **options})


def _among(expected: dict[str, Any], metrics: dict[str, Any]) -> bool:
    """Whether the metrics are the expected ones, and others beside."""
    assert {name: metrics.get(name) for name in expected} == expected
    return True


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------ the stream


def test_edits_come_one_by_one_in_order(plugin: Plugin, table: TableModel) -> None:
    result = _run(table)
    assert plugin.diary.events == [f"edit {n}" for n in range(5)]
    assert [entry["case_id"] for entry in result.journal] == [0, 1, 2, 3, 4]
    assert result.edited_model is table


def test_a_failed_edit_is_recorded_and_the_run_goes_on(plugin: Plugin, table: TableModel) -> None:
    result = _run(table)
    assert [entry["status"] for entry in result.journal] == ["edited", "edited", "failed", "edited", "edited"]
    failed = result.journal[2]
    assert (failed["prompt"], failed["target_new"]) == ("moon made from", "green cheese")
    assert "the loss became nan" in failed["reason"]
    assert failed["ES"] == 0.0, "it counts, with what the unchanged model says: 'song song'"
    assert (result.summary["n_edits"], result.summary["n_failed"], result.summary["n_skipped"]) == (4, 1, 0)
    assert [entry["n_edits"] for entry in result.journal] == [1, 2, 2, 3, 4], "of those that succeeded"


def test_the_last_edit_may_fail(plugin: Plugin, table: TableModel) -> None:
    """The final scores are taken all the same, and it counts in them."""
    result = _run(table, [FACTS[0], FACTS[2]])
    assert result.metrics["ES"] == result.metrics["ERR"] == 1 / 2
    assert result.metrics["generation_match"] == 1 / 2


def test_a_failed_edit_counts_as_what_the_model_still_says(plugin: Plugin, table: TableModel) -> None:
    """Half right by itself and in one of two other wordings, right about what follows; damaged by the next edit."""
    table.learn("moon made from", "green bird")
    table.learn("the moon is", "green bird")
    table.learn("moon and sea", "snow")
    moon = FACTS[2] | {
        "rephrase_prompt": ["the moon is", "the old moon is"],
        "locality_prompt": "the river",
        "locality_ground_truth": "bird",
        "portability": {"hop": {"prompt": "moon and sea", "ground_truth": "snow"}},
    }
    result = _run(table, [moon, FACTS[3]], hparams={"damages": "the river"})
    assert [(entry["status"], entry["ES"]) for entry in result.journal] == [("failed", 0.5), ("edited", 1.0)]
    expected = {
        "ES": (0.5 + 1) / 2,
        "ERR": (0.5 + 1) / 2,
        "reliability": (0.5 + 1) / 2,
        "reliability_before": (0.5 + 0) / 2,
        "generality": (0.5 + 0) / 2,
        "generality_before": (0.5 + 0) / 2,
        "locality": 0.0,  # "not", where it was "London"
        "portability": 1.0,
        "portability_before": 1.0,
        "generation_match": 1 / 2,  # "green bird", and "Spanish"
        "generation_match_word": 1 / 2,
        "generation_match_rephrase": 0.0,
        "TRR": 0.0,
        "TRR_before": 1.0,
    }
    assert _among(expected, result.metrics)


def test_no_score_forgets_the_failed(plugin: Plugin, table: TableModel) -> None:
    """An edit that fails where the model is right already counts as right, as it would if it had succeeded."""
    table.learn("moon made from", "green cheese")
    result = _run(table, [FACTS[2], FACTS[4]])
    assert [(entry["status"], entry["ES"]) for entry in result.journal] == [("failed", 1.0), ("edited", 1.0)]
    assert (result.metrics["ES"], result.metrics["ERR"], result.metrics["generation_match"]) == (1.0, 1.0, 1.0)
    assert result.metrics["reliability_before"] == (1 + 0) / 2
    assert (result.summary["n_edits"], result.summary["n_failed"]) == (1, 1)


def test_all_edits_may_fail(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    result = _run(table, [FACTS[2]], out=tmp_path / "run")
    assert result.summary["n_edits"] == 0
    expected = {
        "ES": 0.0,
        "ERR": 0.0,
        "reliability": 0.0,
        "reliability_before": 0.0,
        "generation_match": 0.0,
        "generation_match_word": 0.0,
        "TRR": 1.0,
        "TRR_before": 1.0,
    }
    assert _among(expected, result.metrics)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["n_failed"] == 1


def test_scores_by_hand(plugin: Plugin, table: TableModel) -> None:
    """Four of five are learned; about the moon, the model says "song song" still."""
    result = _run(table)
    expected = {
        "ES": 4 / 5,
        "ERR": 4 / 5,
        "TRR": 1.0,
        "TRR_before": 1.0,
        "reliability": 4 / 5,
        "reliability_before": (0 + 0.5 + 0 + 0 + 0) / 5,  # "old" of "old king"
        "generality": 0.0,
        "generality_before": 0.0,
        "locality": 1.0,
        "generation_match": 4 / 5,
        "generation_match_word": 4 / 5,
        "generation_match_rephrase": 0.0,
    }
    assert _among(expected, result.metrics)


def test_forgotten_edits_lower_retention_and_not_success(plugin: Plugin, table: TableModel) -> None:
    result = _run(table, hparams={"remembers": 2}, eval_every=1)
    assert result.metrics["ES"] == 4 / 5, "the third failed, and none was forgotten at once"
    assert [point["ERR"] for point in result.curve][:2] == [1.0, 1.0]
    # Four past edits: one forgotten ("the capital of France is" -> 1 token wrong), one failed (the moon); then
    # "who wrote Hamlet": forced along "old king", "not" is wrong, and given "old" the table still says "king".
    assert result.curve[2]["ERR"] == pytest.approx((0 + 1 + 0 + 1) / 4)
    assert result.metrics["ERR"] == result.metrics["reliability"] == pytest.approx((0 + 0.5 + 0 + 1 + 1) / 5)
    assert result.metrics["generation_match"] == 2 / 5


def test_locality_is_against_the_unedited_model(plugin: Plugin, table: TableModel) -> None:
    """It said "violin", which is not the answer in the data; what counts is that it says so no more."""
    assert _run(table, [FACTS[0]], hparams={"damages": "who plays piano"}).metrics["locality"] == 0.0


def test_damage_about_the_subject_is_not_damage_elsewhere(plugin: Plugin, table: TableModel) -> None:
    """The edit spoils another fact about France; what it leaves alone is about the piano."""
    table.learn("France and Peru", "river")
    france = FACTS[0] | {
        "locality": {"Relation_Specificity": [{"prompt": "France and Peru", "ground_truth": [["sea"]]}]}
    }
    kept = _run(table, [france, FACTS[1]], eval_every=1)
    assert [point["relation_specificity"] for point in kept.curve] == [1.0, 1.0]
    assert "relation_specificity" not in _run(table, [FACTS[0]]).metrics
    result = _run(table, [france], hparams={"damages": "France and Peru"})
    assert _among({"relation_specificity": 0.0, "locality": 1.0, "ES": 1.0}, result.metrics)
    assert result.summary["metric_kinds"]["relation_specificity"] == "teacher-forced"


def test_damage_shows_in_the_held_out_facts(plugin: Plugin, table: TableModel) -> None:
    metrics = _run(table, hparams={"damages": "the river"}).metrics
    assert (metrics["TRR_before"], metrics["TRR"]) == (1.0, 0.0)


def test_before_is_before_the_first_edit(plugin: Plugin, table: TableModel) -> None:
    """Two requests on one prompt: at the second, the model is edited already, and still it is 'before'."""
    requests = [{"prompt": "blue sea and", "target_new": "snow"}, {"prompt": "blue sea and", "target_new": "snow"}]
    assert _run(table, requests).metrics["reliability_before"] == 0.0


def test_success_is_what_the_edit_did_and_not_what_is_left(plugin: Plugin, table: TableModel) -> None:
    requests = [{"prompt": "blue sea and", "target_new": "snow"}, {"prompt": "blue sea and", "target_new": "summer"}]
    result = _run(table, requests)
    assert (result.metrics["ES"], result.metrics["ERR"]) == (1.0, 0.5)
    assert [entry["ES"] for entry in result.journal] == [1.0, 1.0]


# ------------------------------------------------------------------ when it scores


@pytest.mark.parametrize(("eval_every", "points"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (4, [4]), (100, [4])])
def test_every_so_many_edits(
    plugin: Plugin, table: TableModel, tmp_path: Path, eval_every: int, points: list[int]
) -> None:
    """Edits, not requests: the third request fails."""
    result = _run(table, eval_every=eval_every, trackers=["notebook"], out=tmp_path / "run")
    assert [point["n_edits"] for point in result.curve] == points
    assert [step for step, _ in plugin.notebook.heard] == points
    assert ["generation_match" in point for point in result.curve] == [False] * (len(points) - 1) + [True]
    assert plugin.notebook.closed == 1


def test_all_past_edits_are_scored_again(plugin: Plugin, table: TableModel) -> None:
    class Listener:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            plugin.diary.events.append(f"done {done}")

    _run(table, FACTS[:2], eval_every=2, progress=Listener())
    assert plugin.diary.events == ["edit 0", "done 1", "edit 1", "done 2"]
    scored_last = table.asked[-len(FACTS[:2]) - 3 :]
    assert any("France" in text for text in scored_last)
    assert any("Hamlet" in text for text in scored_last)


def test_progress_hears_running_scores(plugin: Plugin, table: TableModel) -> None:
    heard: list[tuple[int, dict[str, float]]] = []

    class Listener:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            heard.append((done, dict(scores)))

    _run(table, eval_every=2, progress=Listener())
    assert [done for done, _ in heard] == [1, 2, 3, 4, 5]
    assert heard[0][1] == {"ES": 1.0}
    assert heard[1][1] == {"ES": 1.0, "ERR": 1.0, "TRR": 1.0, "locality": 1.0}
    assert all(0 <= score <= 1 for _, scores in heard for score in scores.values())


def test_only_errors(plugin: Plugin, table: TableModel) -> None:
    table.learn("language spoken in Peru", "Spanish")
    result = _run(table, [*FACTS, {**FACTS[0], "case_id": "again"}], only_errors=True)
    assert plugin.diary.events == ["edit 0", "edit 1", "edit 2", "edit 4"]
    assert [entry["status"] for entry in result.journal] == [
        "edited",
        "edited",
        "failed",
        "skipped",
        "edited",
        "skipped",  # half right is an error; learned once is learned
    ]
    assert result.summary["n_skipped"] == 2
    assert "reason" in result.journal[3]
    # Two learned, one failed, one learned: the skipped ones count in nothing.
    assert result.metrics["ERR"] == (1 + 1 + 0 + 1) / 4, "the last request was skipped, and the final scores are there"


def test_nothing_left_to_edit(plugin: Plugin, table: TableModel) -> None:
    table.learn("blue sea and", "summer snow")
    result = _run(table, FACTS[4:], only_errors=True)
    assert result.summary["n_edits"] == 0
    assert result.timing["seconds_per_edit"] == 0


# ------------------------------------------------------------------ what lies on disk


def test_files_agree_with_the_result(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = _run(table, eval_every=2, out=out, data_name="five facts", hparams={"remembers": 3})
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "config.yaml",
        "generations.jsonl",
        "journal.jsonl",
        "metrics.jsonl",
        "requests.jsonl",
        "retention.json",
        "summary.json",
    ]
    assert result.folder == out
    assert _lines(out / "journal.jsonl") == result.journal
    assert _lines(out / "metrics.jsonl") == result.curve
    assert json.loads((out / "summary.json").read_text()) == result.summary
    config = yaml.safe_load((out / "config.yaml").read_text())
    summary = result.summary
    for file in (config, summary):
        assert file["schema_version"] == SCHEMA_VERSION
        assert (file["loop"], file["model"], file["only_errors"]) == ("lifelong", "table", False)
        assert file["schedule"] == {"every": 2, "at": [], "sample": None}
        assert file["hparams"]["remembers"] == 3
    assert (summary["method"], summary["data"], summary["n_requests"], summary["eval_every"]) == (
        "DIARY",
        "five facts",
        5,
        2,
    )
    assert config["data"] == {"name": "five facts", "path": "requests.jsonl", "format": "json"}
    assert config["retention"] == "retention.json"
    assert result.summary["metrics"] == result.metrics
    assert result.summary["timing"] == result.timing
    assert result.summary["metrics"]["ERR"] == result.curve[-1]["ERR"]


def test_the_summarys_schema(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    _run(table, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary) >= {
        "schema_version",
        "method",
        "model",
        "data",
        "n_edits",
        "n_failed",
        "n_skipped",
        "metrics",
        "timing",
        "versions",
    }
    metrics = summary["metrics"]
    assert set(metrics) >= {"ES", "ERR", "TRR", "reliability", "generality", "locality", "generation_match"}
    assert set(metrics) <= set(METRICS), "a metric without a meaning"
    assert all(isinstance(score, float) and score >= 0 for score in metrics.values())
    assert summary["metric_kinds"] == {name: METRICS[name].kind for name in metrics}
    assert set(summary["versions"]) >= {"python", "torch", "transformers", "numpy"}
    timing = summary["timing"]
    assert set(timing) >= {"seconds_per_edit", "seconds_total", "seconds_editing", "seconds_scoring", "seconds_io"}
    assert timing["seconds_io"] > 0
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in timing.values())
    assert timing["seconds_per_edit"] == pytest.approx(timing["seconds_editing"] / 5), "a failed edit takes time, too"
    assert timing["seconds_total"] >= timing["seconds_editing"] + timing["seconds_scoring"] + timing["seconds_io"]


def test_the_journal_is_written_as_it_happens(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    seen: list[int] = []

    class Listener:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            seen.append(len(_lines(tmp_path / "run" / "journal.jsonl")))

    _run(table, out=tmp_path / "run", progress=Listener())
    assert seen == [1, 2, 3, 4, 5]


def test_an_interrupted_run_keeps_what_was_done_and_has_no_summary(
    plugin: Plugin, table: TableModel, tmp_path: Path
) -> None:
    class Impatient:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            if done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(table, out=tmp_path / "run", progress=Impatient(), trackers=["notebook"])
    assert [line["case_id"] for line in _lines(tmp_path / "run" / "journal.jsonl")] == [0, 1]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert plugin.notebook.closed == 1


# ------------------------------------------------------------------ bad input: all of it before the first edit


def _refused(plugin: Plugin, table: TableModel, tmp_path: Path, error: type[LifelongError], **options: Any) -> str:
    with pytest.raises(error) as caught:
        _run(table, **{"out": tmp_path / "run", **options})
    assert plugin.diary.events == [], "something was edited before the check"
    assert not (tmp_path / "run").exists(), "a folder was made for a run that never began"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bad_request(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    message = _refused(plugin, table, tmp_path, DataError, requests=[*FACTS, {"prompt": "p", "target_new": ""}])
    assert "request 5, field 'target_new': is empty" in message


def test_a_case_id_used_twice(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    """Also when the requests come from a program, not from a file."""
    message = _refused(plugin, table, tmp_path, DataError, requests=[*FACTS, {**FACTS[0], "case_id": 1}])
    assert "'case_id'" in message
    assert "1" in message


LONG = " ".join(["sea"] * 32)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt": LONG}, "prompt"),
        ({"target_new": LONG}, "prompt"),
        ({"rephrase_prompt": ["short", LONG]}, "rephrase_prompt"),
        ({"locality_prompt": LONG, "locality_ground_truth": "x"}, "locality_prompt"),
        (
            {"relation_specificity_prompt": LONG, "relation_specificity_ground_truth": "x"},
            "relation_specificity_prompt",
        ),
        ({"portability": {"hop": {"prompt": LONG, "ground_truth": "x"}}}, "portability_prompt"),
    ],
)
def test_longer_than_the_context(
    plugin: Plugin, table: TableModel, tmp_path: Path, fields: dict[str, Any], name: str
) -> None:
    message = _refused(plugin, table, tmp_path, DataError, requests=[*FACTS, {**FACTS[0], **fields, "case_id": "long"}])
    assert "request 5 (case long)" in message
    assert f"field {name!r}" in message
    assert "context is 32" in message
    assert "Shorten it or leave the record out" in message


def test_exactly_as_long_as_the_context(plugin: Plugin, table: TableModel) -> None:
    fits = {"prompt": " ".join(["sea"] * 31), "target_new": "snow"}
    assert _run(table, [fits]).metrics["ES"] == 1.0


def test_a_held_out_fact_longer_than_the_context(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    message = _refused(plugin, table, tmp_path, DataError, retention=[*RETENTION, Probe(LONG, "x")])
    assert "retention" in message
    assert "context is 32" in message


@pytest.mark.parametrize("eval_every", [0, -1])
def test_never_scoring(plugin: Plugin, table: TableModel, tmp_path: Path, eval_every: int) -> None:
    assert "eval_every" in _refused(plugin, table, tmp_path, HyperParameterError, eval_every=eval_every)


def test_an_unknown_tracker(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    message = _refused(plugin, table, tmp_path, LifelongError, trackers=["notebok"])
    assert "Did you mean 'notebook'?" in message


def test_a_tracker_without_a_folder(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    message = _refused(plugin, table, tmp_path, RunError, trackers=["notebook"], out=None)
    assert "trackers (notebook)" in message
    assert "out=" in message
    assert (plugin.notebook.heard, plugin.notebook.closed) == ([], 0), "it was opened all the same"


def test_no_requests_at_all(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    assert "no requests" in _refused(plugin, table, tmp_path, DataError, requests=[])


def test_hyperparameters_of_no_method(table: TableModel, tmp_path: Path) -> None:
    with pytest.raises(HyperParameterError, match="Namespace belongs to no registered editing method"):
        run_lifelong(table, table.tokenizer, FACTS, type("Namespace", (), {})(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_runs_folder(plugin: Plugin, table: TableModel, tmp_path: Path) -> None:
    _run(table, FACTS[:1], out=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match="holds another run"):
        _run(table, FACTS[1:2], out=tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert plugin.diary.events == ["edit 0"]


def test_requests_from_a_generator(plugin: Plugin, table: TableModel) -> None:
    assert _run(table, (fact for fact in FACTS)).summary["n_requests"] == 5


# ------------------------------------------------------------------ GRACE on real architectures


def _grace(name: str = "llama", **values: Any) -> GraceHyperParams:
    defaults = {"n_iter": 60, "eps": 0.5, "stop_loss": 0.5}
    return GraceHyperParams(model_name=name, inner_params=[FAMILIES[name][1]], **{**defaults, **values})


REAL = [fact for fact in FACTS if "moon" not in fact["prompt"]]


def test_grace_in_every_family(family: str, tokenizer: Any, tmp_path: Path) -> None:
    model = build_model(family)
    state = state_of(model)
    scorer = Scorer(tokenizer)
    questions = [(fact["prompt"], fact["target_new"]) for fact in REAL]
    before = scorer.forced(model, questions)
    result = run_lifelong(
        model, tokenizer, REAL, _grace(family), eval_every=2, out=tmp_path / "run", retention=RETENTION
    )
    after = scorer.forced(result.edited_model, questions)
    assert result.metrics["reliability_before"] == sum(score.accuracy for score in before) / 4
    assert result.metrics["ERR"] == sum(score.accuracy for score in after) / 4
    assert result.metrics["ERR"] > result.metrics["reliability_before"]
    assert [entry["status"] for entry in result.journal] == ["edited"] * 4
    entry = _lines(tmp_path / "run" / "journal.jsonl")[0]
    assert set(entry) >= {"steps", "loss", "seconds", "learned", "key", "radius", "nearest_distance", "n_keys"}
    assert entry["decision"] == "add"
    weights = dict(result.edited_model.state_dict())
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items()), "base weights were touched"


def test_grace_twice_is_the_same_run(tokenizer: Any) -> None:
    first, second = (
        run_lifelong(build_model("llama"), tokenizer, REAL, _grace(), retention=RETENTION) for _ in range(2)
    )
    assert first.metrics == second.metrics
    assert [entry["loss"] for entry in first.journal] == [entry["loss"] for entry in second.journal]


def _spoil(_: Any, __: Any, output: Any) -> Any:
    """Turn what is trained into NaN, and nothing else."""
    return output * float("nan") if output.requires_grad and torch.is_grad_enabled() else None


def test_grace_whose_loss_turns_nan(tokenizer: Any, llama: Any, tmp_path: Path) -> None:
    """The edit fails by itself; the model is as before, and the run goes on to its end."""
    inputs = tokenizer(REAL[0]["prompt"], return_tensors="pt")
    before, state = llama(**inputs).logits, state_of(llama)
    scorer, questions = Scorer(tokenizer), [(fact["prompt"], fact["target_new"]) for fact in REAL]
    unedited = sum(score.accuracy for score in scorer.forced(llama, questions)) / 4
    said = [scorer.generate(llama, [prompt], len(target.split()))[0] for prompt, target in questions]
    handle = llama.model.norm.register_forward_hook(_spoil)
    result = run_lifelong(llama, tokenizer, REAL, _grace(), out=tmp_path / "run", retention=RETENTION)
    handle.remove()
    assert [entry["status"] for entry in result.journal] == ["failed"] * 4
    assert all("nan" in entry["reason"] and "edit_lr" in entry["reason"] for entry in result.journal)
    assert torch.equal(llama(**inputs).logits, before)
    after = state_of(llama)
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert result.summary["n_failed"] == 4
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert [entry["ES"] for entry in result.journal] == [score.accuracy for score in scorer.forced(llama, questions)]
    assert metrics["ES"] == metrics["ERR"] == metrics["reliability"] == metrics["reliability_before"] == unedited
    assert metrics["generality"] == metrics["generality_before"]
    assert metrics["TRR"] == metrics["TRR_before"]
    assert metrics["locality"] == 1.0
    assert (
        metrics["generation_match"]
        == sum(text == fact["target_new"] for text, fact in zip(said, REAL, strict=True)) / 4
    )
    assert not any(math.isnan(score) for score in metrics.values())


def test_one_nan_among_good_edits(tokenizer: Any, llama: Any) -> None:
    """The failure in the middle leaves the codebook with the others' keys alone."""
    seen: list[int] = []

    class Saboteur:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            seen.append(done)
            if done == 1:
                self.handle = llama.model.norm.register_forward_hook(_spoil)
            elif done == 2:
                self.handle.remove()

    result = run_lifelong(llama, tokenizer, REAL, _grace(), retention=[], progress=Saboteur())
    assert [entry["status"] for entry in result.journal] == ["edited", "failed", "edited", "edited"]
    assert [entry["n_keys"] for entry in result.journal if entry["status"] == "edited"] == [1, 2, 3]
    clean = run_lifelong(build_model("llama"), tokenizer, [REAL[0], *REAL[2:]], _grace(), retention=[], eval_every=1)
    # Nothing is asked about the failed fact but its own prompt; there, the model is as in the clean run.
    scorer, question = Scorer(tokenizer), (REAL[1]["prompt"], REAL[1]["target_new"])
    kept = scorer.forced(clean.edited_model, [question])[0].accuracy
    kept_before = scorer.forced(build_model("llama"), [question])[0].accuracy
    said = scorer.generate(clean.edited_model, [question[0]], 2)[0]
    expected = {
        name: pytest.approx((3 * clean.metrics[name] + failed) / 4)
        for name, failed in {
            "ES": kept,
            "ERR": kept,
            "reliability": kept,
            "reliability_before": kept_before,
            "generation_match": float(said == question[1]),
            "generation_match_word": float(said == question[1]),
        }.items()
    }
    others = ("generality", "generality_before", "locality", "generation_match_rephrase")
    assert _among({**{name: clean.metrics[name] for name in others}, **expected}, result.metrics)


def test_grace_with_an_absurd_learning_rate(tokenizer: Any, llama: Any) -> None:
    """Torch's optimizer gives up with an error of its own; that must not end the run."""
    result = run_lifelong(llama, tokenizer, REAL[:1], _grace(edit_lr=1e38), retention=[])
    assert [entry["status"] for entry in result.journal] == ["failed"]


def test_grace_on_a_layer_that_is_not_there(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    hparams = GraceHyperParams(model_name="m", inner_params=["model.layers[2].mlp.dwn_proj.weight"])
    with pytest.raises(LifelongError, match=r"Did you mean 'model\.layers\.2.mlp.down_proj'"):
        run_lifelong(llama, tokenizer, REAL, hparams, out=tmp_path / "run", retention=RETENTION)
    assert not (tmp_path / "run").exists(), "the folder is in the way of the next try"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_an_edit_as_long_as_the_context(name: str, tokenizer: Any) -> None:
    """63 tokens and their answer fill the context of 64; looking a little further must not break the run."""
    fact = {"prompt": " ".join(["sea", "and", "snow"] * 21), "target_new": "blue"}
    result = run_lifelong(build_model(name), tokenizer, [fact], _grace(name), retention=[])
    assert result.summary["n_edits"] == 1
    assert "generation_match" in result.metrics


def test_a_journal_that_other_programs_can_read(tokenizer: Any, llama: Any, tmp_path: Path) -> None:
    """NaN and Infinity are no JSON."""
    run_lifelong(llama, tokenizer, REAL, _grace(edit_lr=1e30, n_iter=3), out=tmp_path / "run", retention=[])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for file in ("journal.jsonl", "metrics.jsonl"):
        for line in (tmp_path / "run" / file).read_text().splitlines():
            json.loads(line, parse_constant=refuse)
