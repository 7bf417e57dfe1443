"""Answers that join a running batch and leave it: each is that of its version alone, whatever runs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.serving.batches import open_batch
from easyedit_lifelong.serving.continuous_batch import ContinuousBatch
from easyedit_lifelong.serving.generation import Row, Sampling
from easyedit_lifelong.serving.live_model import LiveModel
from easyedit_lifelong.serving.static_batch import StaticBatch, generate_rows
from tests.serving.test_mixed_versions import HPARAMS, five_versions, prompts
from tests.support.corpus import write_corpus
from tests.support.served_models import PROMPTS, fine_tuning, live_model, requests
from tests.support.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()
SETTINGS: list[dict[str, Any]] = [
    {"max_tokens": 7},
    {"max_tokens": 1},
    {"max_tokens": 9, "temperature": 1.0, "seed": 1},
    {"max_tokens": 5, "temperature": 0.7, "top_p": 0.8, "seed": 2, "logprobs": 2},
    {"max_tokens": 6, "stop": ("winter", "of"), "logprobs": 0},
]


def rows() -> list[Row]:
    """Rows of different prompts, lengths and settings."""
    return [Row(prompt, Sampling(**SETTINGS[n % len(SETTINGS)])) for n, prompt in enumerate(prompts())]


def versions(live: LiveModel) -> list[int]:
    """A version for each row: all of them occur."""
    return [(5 * n) % (live.version + 1) for n in range(len(rows()))]


def alone(live: LiveModel) -> list[Row]:
    """The same rows, generated one by one by the model of their version."""
    answers = rows()
    for row, version in zip(answers, versions(live), strict=True):
        with live.at(version) as model:
            generate_rows(model, TOKENIZER, [row])
    return answers


def fields(row: Row) -> tuple[Any, ...]:
    return row.tokens, row.text, row.finish_reason, [entry.token for entry in row.logprobs]


@pytest.fixture(scope="module", params=HPARAMS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[Row]]:
    """A folder with five versions, the hyperparameters of its method, and the rows as generated one by one."""
    folder = tmp_path_factory.mktemp("served")
    write_corpus(folder)
    hparams = HPARAMS[request.param](folder)
    with five_versions(folder, hparams) as live:
        return folder / "edits", hparams, alone(live)


@pytest.mark.parametrize(("max_rows", "at_once"), [(32, 1), (2, 1), (32, 3), (5, 20)])
def test_answers_of_all_versions_that_arrive_at_different_times(
    served: tuple[Path, Any, list[Row]], max_rows: int, at_once: int
) -> None:
    folder, hparams, expected = served
    with live_model(folder, hparams) as live:
        answers = rows()
        with open_batch(live, live.version, max_rows) as batch:
            assert isinstance(batch, ContinuousBatch)
            steps = []
            for number, (row, version) in enumerate(zip(answers, versions(live), strict=True), 1):
                batch.add(row, version)
                if number % at_once == 0:
                    steps.append(batch.step())
            while any(row.finish_reason is None for row in answers):
                steps.append(batch.step())
            assert batch.step() == 0
        assert 1 < max(steps) <= max_rows
        assert [fields(row) for row in answers] == [fields(row) for row in expected]
        for row, other in zip(answers, expected, strict=True):
            for got, wanted in zip(row.logprobs, other.logprobs, strict=True):
                assert got.logprob == pytest.approx(wanted.logprob, abs=1e-4)
        assert PositionTracker.of(live.base) is None, "nothing stays on the base model"


def test_a_prompt_is_read_by_the_unedited_model_while_edited_answers_run(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        live.add(requests(0), "key")
        prompt = TOKENIZER(PROMPTS[0])["input_ids"]
        unedited, edited, plain = (Row(prompt, Sampling(max_tokens=8)) for _ in range(3))
        with live.at(0) as base:
            generate_rows(base, TOKENIZER, [unedited])
        with open_batch(live, 1, 8) as batch:
            batch.add(edited, 1)
            batch.step()
            assert edited.finish_reason is None, "it must run when the other one arrives"
            batch.add(plain, 0)
            while plain.finish_reason is None:
                batch.step()
        assert fields(plain) == fields(unedited)
        assert edited.tokens[0] != (plain.tokens or [None])[0]


def test_a_version_that_is_loaded_while_answers_run_has_its_own_edits_only(
    served: tuple[Path, Any, list[Row]],
) -> None:
    folder, hparams, expected = served
    with live_model(folder, hparams) as live:
        assert len(live._earlier) == 0
        answers = rows()
        present = [Row(answers[n].prompt, Sampling(max_tokens=20)) for n in (0, 1)]
        with open_batch(live, live.version, 32) as batch:
            for row in present:
                batch.add(row, live.version)
            for row, version in zip(answers, versions(live), strict=True):
                batch.step()
                batch.step()
                batch.add(row, version)
            while any(row.finish_reason is None for row in answers):
                batch.step()
        assert len(live._earlier) > 0
        assert [fields(row) for row in answers] == [fields(row) for row in expected]


def test_requests_of_one_token_do_not_stop_a_running_answer(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        running = Row(TOKENIZER("blue")["input_ids"], Sampling(max_tokens=20))
        with open_batch(live, 0, 4) as batch:
            batch.add(running, 0)
            for _ in range(12):
                batch.add(Row(TOKENIZER("snow")["input_ids"], Sampling(max_tokens=1)), 0)
                batch.step()
        assert len(running.tokens) >= 4


def test_a_cancelled_answer_leaves_and_the_others_continue(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        live.add(requests(0), "key")
        expected, kept, cancelled = (Row(TOKENIZER(PROMPTS[0])["input_ids"], Sampling(max_tokens=8)) for _ in range(3))
        generate_rows(live.model, TOKENIZER, [expected])
        with open_batch(live, 1, 8) as batch:
            for row in (cancelled, kept):
                batch.add(row, 1)
            assert batch.step() == 2 and len(kept.tokens) == len(cancelled.tokens) == 1
            cancelled.cancelled = True
            assert [batch.step(), batch.step()] == [2, 1]
            while kept.finish_reason is None:
                batch.step()
        assert cancelled.finish_reason == "cancelled" and kept.tokens == expected.tokens


def test_edits_in_weights_are_continued_and_hooks_that_do_not_act_by_row_are_not(tmp_path: Path) -> None:
    with live_model(tmp_path / "weights", fine_tuning()) as live:
        live.add(requests(0), "key")
        expected = Row(TOKENIZER(PROMPTS[0])["input_ids"], Sampling(max_tokens=5))
        generate_rows(live.model, TOKENIZER, [expected])
        for version in (0, 1):
            row = Row(expected.prompt, expected.sampling)
            with open_batch(live, version, 8) as batch:
                assert isinstance(batch, ContinuousBatch)
                batch.add(row, version)
                while row.finish_reason is None:
                    batch.step()
            assert (row.tokens == expected.tokens) == (version == 1)
        live.model.model.layers[0].register_forward_hook(lambda *_: None)
        with open_batch(live, 1, 8) as batch:
            assert isinstance(batch, StaticBatch)


def test_the_base_model_is_plain_between_steps(tmp_path: Path) -> None:
    """Copies of it are made then, and must not have what makes its passes faster."""
    with live_model(tmp_path) as live:
        live.add(requests(0), "key")
        answer = Row(prompts()[0], Sampling(max_tokens=5))
        with open_batch(live, live.version, 8) as batch:
            batch.add(answer, live.version)
            while answer.finish_reason is None:
                batch.step()
                assert not [part for part in live.base.modules() if type(part) is nn.Linear and "forward" in vars(part)]
