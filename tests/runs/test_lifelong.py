"""The lifelong loop: order, scores and schedule, on a model whose every answer is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.diary_method import FACTS, Diary, run_diary
from tests.support.progress import RecordingProgress
from tests.support.run_files import select
from tests.support.table_model import TableModel


def test_requests_are_edited_one_by_one_in_order(diary: Diary, diary_table: TableModel) -> None:
    result = run_diary(diary_table)
    assert diary.events == [f"edit {n}" for n in range(5)]
    assert [entry["case_id"] for entry in result.journal] == [0, 1, 2, 3, 4]
    assert result.edited_model is diary_table


def test_only_errors_skips_requests_that_the_model_answers_already(diary: Diary, diary_table: TableModel) -> None:
    diary_table.learn("language spoken in Peru", "Spanish")
    result = run_diary(diary_table, [*FACTS, {**FACTS[0], "case_id": "again"}], only_errors=True)
    assert diary.events == ["edit 0", "edit 1", "edit 2", "edit 4"]
    assert [entry["status"] for entry in result.journal] == [
        "edited",
        "edited",
        "failed",
        "skipped",
        "edited",
        "skipped",  # the first edit already taught this fact
    ]
    assert result.summary["n_skipped"] == 2
    assert "reason" in result.journal[3]
    # Three edits succeeded, one failed; skipped requests count in no score.
    assert result.metrics["ERR"] == (1 + 1 + 0 + 1) / 4, (
        "the final scores must be there although the last request was skipped"
    )


@pytest.mark.parametrize("unknown", range(6))
def test_the_unedited_model_generates_for_the_sample_although_most_requests_are_skipped(
    diary: Diary, diary_table: TableModel, unknown: int
) -> None:
    prompts = [f"the {word} is" for word in ("sea", "river", "king", "bird", "snow", "song")]
    for prompt in prompts[:unknown] + prompts[unknown + 1 :]:
        diary_table.learn(prompt, "Rome")
    facts = [{"prompt": prompt, "target_new": "Rome"} for prompt in prompts]
    result = run_diary(diary_table, facts, only_errors=True, eval_sample=1)
    assert (result.summary["n_edits"], result.summary["n_skipped"]) == (1, 5)
    assert (result.metrics["generation_match_before"], result.metrics["generation_match"]) == (0, 1)


def test_a_run_that_skips_every_request_ends_without_edits(diary: Diary, diary_table: TableModel) -> None:
    diary_table.learn("blue sea and", "summer snow")
    result = run_diary(diary_table, FACTS[4:], only_errors=True)
    assert result.summary["n_edits"] == 0
    assert result.timing["seconds_per_edit"] == 0


# ------------------------------------------------------------------ failed edits


def test_a_failed_edit_is_recorded_and_does_not_stop_the_run(diary: Diary, diary_table: TableModel) -> None:
    result = run_diary(diary_table)
    assert [entry["status"] for entry in result.journal] == ["edited", "edited", "failed", "edited", "edited"]
    failed = result.journal[2]
    assert (failed["prompt"], failed["target_new"]) == ("moon made from", "green cheese")
    assert "the loss became nan" in failed["reason"]
    assert failed["ES"] == 0.0, "a failed edit must be scored on the unchanged model, which answers 'song song'"
    assert (result.summary["n_edits"], result.summary["n_failed"], result.summary["n_skipped"]) == (4, 1, 0)
    assert [entry["n_edits"] for entry in result.journal] == [1, 2, 2, 3, 4], "n_edits must count successful edits only"


def test_the_final_scores_include_a_last_edit_that_failed(diary: Diary, diary_table: TableModel) -> None:
    result = run_diary(diary_table, [FACTS[0], FACTS[2]])
    assert result.metrics["ES"] == result.metrics["ERR"] == 1 / 2
    assert result.metrics["generation_match"] == 1 / 2


def test_a_failed_edit_is_scored_in_every_metric(diary: Diary, diary_table: TableModel) -> None:
    """The model answers the prompt and a paraphrase half right, portability right; the next edit spoils locality."""
    diary_table.learn("moon made from", "green bird")
    diary_table.learn("the moon is", "green bird")
    diary_table.learn("moon and sea", "snow")
    moon = FACTS[2] | {
        "rephrase_prompt": ["the moon is", "the old moon is"],
        "locality_prompt": "the river",
        "locality_ground_truth": "bird",
        "portability": {"hop": {"prompt": "moon and sea", "ground_truth": "snow"}},
    }
    result = run_diary(diary_table, [moon, FACTS[3]], hparams={"damages": "the river"})
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
    assert select(result.metrics, expected) == expected


def test_a_failed_edit_counts_as_right_if_the_model_was_right_already(diary: Diary, diary_table: TableModel) -> None:
    diary_table.learn("moon made from", "green cheese")
    result = run_diary(diary_table, [FACTS[2], FACTS[4]])
    assert [(entry["status"], entry["ES"]) for entry in result.journal] == [("failed", 1.0), ("edited", 1.0)]
    assert (result.metrics["ES"], result.metrics["ERR"], result.metrics["generation_match"]) == (1.0, 1.0, 1.0)
    assert result.metrics["reliability_before"] == (1 + 0) / 2
    assert (result.summary["n_edits"], result.summary["n_failed"]) == (1, 1)


def test_a_run_whose_edits_all_fail_has_scores_and_a_summary(
    diary: Diary, diary_table: TableModel, tmp_path: Path
) -> None:
    result = run_diary(diary_table, [FACTS[2]], out=tmp_path / "run")
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
    assert select(result.metrics, expected) == expected
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["n_failed"] == 1


# ------------------------------------------------------------------ metrics


def test_scores_equal_those_computed_by_hand(diary: Diary, diary_table: TableModel) -> None:
    """Four of five facts are learned; the edit about the moon fails, and the model still answers "song song"."""
    result = run_diary(diary_table)
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
    assert select(result.metrics, expected) == expected


def test_forgotten_edits_lower_err_and_not_es(diary: Diary, diary_table: TableModel) -> None:
    result = run_diary(diary_table, hparams={"remembers": 2}, eval_every=1)
    assert result.metrics["ES"] == 4 / 5, (
        "only the third edit fails, and no edit is forgotten directly after it was made"
    )
    assert [point["ERR"] for point in result.curve][:2] == [1.0, 1.0]
    # At the third scoring, four edits: the first is forgotten, the third failed. At the last one, "who wrote Hamlet"
    # is forgotten, too, and half right: its first token is wrong, but given "old" the table still says "king".
    assert result.curve[2]["ERR"] == pytest.approx((0 + 1 + 0 + 1) / 4)
    assert result.metrics["ERR"] == result.metrics["reliability"] == pytest.approx((0 + 0.5 + 0 + 1 + 1) / 5)
    assert result.metrics["generation_match"] == 2 / 5


def test_locality_compares_with_the_unedited_model(diary: Diary, diary_table: TableModel) -> None:
    """The unedited model answers "violin"; that this isn't the answer in the data plays no part."""
    assert run_diary(diary_table, [FACTS[0]], hparams={"damages": "who plays piano"}).metrics["locality"] == 0.0


def test_damage_to_the_subject_lowers_relation_specificity_and_not_locality(
    diary: Diary, diary_table: TableModel
) -> None:
    """The edit spoils another fact about France, and leaves the locality prompt about the piano as it is."""
    diary_table.learn("France and Peru", "river")
    france = FACTS[0] | {
        "locality": {"Relation_Specificity": [{"prompt": "France and Peru", "ground_truth": [["sea"]]}]}
    }
    kept = run_diary(diary_table, [france, FACTS[1]], eval_every=1)
    assert [point["relation_specificity"] for point in kept.curve] == [1.0, 1.0]
    assert "relation_specificity" not in run_diary(diary_table, [FACTS[0]]).metrics
    result = run_diary(diary_table, [france], hparams={"damages": "France and Peru"})
    expected = {"relation_specificity": 0.0, "locality": 1.0, "ES": 1.0}
    assert select(result.metrics, expected) == expected
    assert result.summary["metric_kinds"]["relation_specificity"] == "teacher-forced"


def test_damage_to_held_out_facts_lowers_trr(diary: Diary, diary_table: TableModel) -> None:
    metrics = run_diary(diary_table, hparams={"damages": "the river"}).metrics
    assert (metrics["TRR_before"], metrics["TRR"]) == (1.0, 0.0)


def test_before_scores_are_those_of_the_unedited_model(diary: Diary, diary_table: TableModel) -> None:
    """Two requests have one prompt: the model is edited already when the second one is reached."""
    requests = [{"prompt": "blue sea and", "target_new": "snow"}, {"prompt": "blue sea and", "target_new": "snow"}]
    assert run_diary(diary_table, requests).metrics["reliability_before"] == 0.0


def test_es_is_measured_directly_after_each_edit(diary: Diary, diary_table: TableModel) -> None:
    requests = [{"prompt": "blue sea and", "target_new": "snow"}, {"prompt": "blue sea and", "target_new": "summer"}]
    result = run_diary(diary_table, requests)
    assert (result.metrics["ES"], result.metrics["ERR"]) == (1.0, 0.5)
    assert [entry["ES"] for entry in result.journal] == [1.0, 1.0]


# ------------------------------------------------------------------ schedule and progress


@pytest.mark.parametrize(("eval_every", "points"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (4, [4]), (100, [4])])
def test_eval_every_counts_successful_edits(
    diary: Diary, diary_table: TableModel, tmp_path: Path, eval_every: int, points: list[int]
) -> None:
    """The third of five requests fails, so it isn't counted."""
    result = run_diary(diary_table, eval_every=eval_every, trackers=["notebook"], out=tmp_path / "run")
    assert [point["n_edits"] for point in result.curve] == points
    assert [step for step, _ in diary.tracker.received] == points
    assert ["generation_match" in point for point in result.curve] == [False] * (len(points) - 1) + [True]
    assert diary.tracker.closed == 1


def test_a_scoring_asks_about_all_past_edits(diary: Diary, diary_table: TableModel) -> None:
    class EventProgress:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            diary.events.append(f"done {done}")

    run_diary(diary_table, FACTS[:2], eval_every=2, progress=EventProgress())
    assert diary.events == ["edit 0", "done 1", "edit 1", "done 2"]
    last_texts = diary_table.received_texts[-len(FACTS[:2]) - 3 :]
    assert any("France" in text for text in last_texts)
    assert any("Hamlet" in text for text in last_texts)


def test_progress_receives_the_scores_so_far(diary: Diary, diary_table: TableModel) -> None:
    progress = RecordingProgress()
    run_diary(diary_table, eval_every=2, progress=progress)
    assert [done for done, _ in progress.reports] == [1, 2, 3, 4, 5]
    assert progress.reports[0][1] == {"ES": 1.0}
    assert progress.reports[1][1] == {"ES": 1.0, "ERR": 1.0, "TRR": 1.0, "locality": 1.0}
    assert all(0 <= score <= 1 for _, scores in progress.reports for score in scores.values())
