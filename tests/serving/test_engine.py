"""The engine: requests join the running ones, changes keep their place in the queue, which is bounded and drained."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.serving.engine import ClosedError, Engine, QueueFullError
from easyedit_lifelong.serving.generation import Row, Sampling
from easyedit_lifelong.serving.jobs import GenerationJob
from easyedit_lifelong.serving.live_model import LiveModel
from tests.support.served_models import OTHER_PROMPTS, PROMPTS, live_model, requests
from tests.support.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()
WAIT = 60


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveModel]:
    with live_model(tmp_path) as model:
        yield model


class Steps(list[int]):
    """The number of rows of each step."""

    def add(self, rows: int, _: float) -> None:
        self.append(rows)


def rows(prompt: str, count: int = 1, **settings: Any) -> list[Row]:
    return [Row(TOKENIZER(prompt)["input_ids"], Sampling(**{"max_tokens": 4, **settings})) for _ in range(count)]


def result(job: GenerationJob) -> tuple[int, list[str]]:
    job.finished.result(WAIT)
    return job.started.result(WAIT), [row.text for row in job.rows]


def block(engine: Engine) -> threading.Event:
    """Keep the worker busy until the event is set."""
    begun, release = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert release.wait(WAIT)

    engine.run(wait)
    assert begun.wait(WAIT)
    return release


def test_waiting_requests_are_generated_together_up_to_the_next_change(live: LiveModel) -> None:
    steps = Steps()
    engine = Engine(live, max_rows=4, on_step=steps.add)
    release = block(engine)
    before = [engine.generate(rows(prompt)) for prompt in PROMPTS[:3]]
    edit = engine.run(lambda: live.add(requests(0), "key"))
    after = [engine.generate(rows(PROMPTS[0], count=3)), engine.generate(rows(PROMPTS[1], count=2))]
    pinned = [engine.generate(rows(PROMPTS[0]), version=0), engine.generate(rows(PROMPTS[0]))]
    release.set()
    assert edit.result(WAIT).version.number == 1
    assert [result(job)[0] for job in [*before, *after, *pinned]] == [0, 0, 0, 1, 1, 0, 1]
    assert steps[0] == 3, "the three before the change"
    assert max(steps) == 4, "the three after it, and the pinned one; two more do not fit"
    texts = [result(job)[1][0] for job in (before[0], after[0], *pinned)]
    assert texts[0] == texts[2] != texts[1] == texts[3]
    engine.close()


def test_a_request_for_more_answers_than_a_batch_has_rows_is_split(live: LiveModel) -> None:
    engine = Engine(live, max_rows=2)
    _, texts = result(engine.generate([*rows(PROMPTS[0], 3), *rows(OTHER_PROMPTS[1], 2)]))
    assert len(set(texts[:3])) == 1
    engine.close()


def test_a_request_joins_those_that_run_and_a_short_answer_does_not_wait_for_a_long_one(live: LiveModel) -> None:
    engine = Engine(live)
    long, short = rows(OTHER_PROMPTS[0], max_tokens=50), rows(PROMPTS[0], max_tokens=2)
    ends: list[str] = []
    joined: list[GenerationJob] = []

    def join(_: str) -> None:
        long[0].on_text = None
        joined.append(engine.generate(short))
        joined[0].finished.add_done_callback(lambda _: ends.append("short"))

    long[0].on_text = join  # at its first token
    first = engine.generate(long)
    first.finished.add_done_callback(lambda _: ends.append("long"))
    texts = [result(first)[1], result(joined[0])[1]]
    assert ends == ["short", "long"] and len(long[0].tokens) > len(short[0].tokens)
    assert texts == [
        result(engine.generate(rows(OTHER_PROMPTS[0], max_tokens=50)))[1],
        result(engine.generate(rows(PROMPTS[0], max_tokens=2)))[1],
    ]
    engine.close()


def test_later_requests_and_a_change_wait_behind_one_that_does_not_fit(live: LiveModel) -> None:
    engine, ends = Engine(live, max_rows=2), list[str]()
    long = rows(OTHER_PROMPTS[0], max_tokens=30)
    waiting: list[Any] = []

    def note(name: str) -> Any:
        return lambda _: ends.append(name)

    def submit(_: str) -> None:
        long[0].on_text = None
        waiting.extend([engine.generate(rows(PROMPTS[0], 2)), engine.generate(rows(PROMPTS[1]))])
        edit = engine.run(lambda: live.add(requests(0), "key"))
        waiting.append(engine.generate(rows(PROMPTS[0])))
        edit.add_done_callback(note("edit"))
        for name, job in zip(("two", "one", "after"), waiting, strict=True):
            job.finished.add_done_callback(note(name))

    long[0].on_text = submit
    first = engine.generate(long)
    first.finished.add_done_callback(note("long"))
    assert result(first)[0] == 0
    assert [result(job)[0] for job in waiting] == [0, 0, 1]
    assert ends.index("long") < ends.index("two") < ends.index("edit") < ends.index("after")
    engine.close()


@pytest.mark.parametrize("error", [RunError("damaged"), OSError("damaged")])
def test_a_version_that_can_not_be_loaded_fails_its_own_request_only(
    live: LiveModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    live.add(requests(0), "key")
    live.add(requests(1), "key")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(live._earlier, "model", fail)
    engine = Engine(live)
    release = block(engine)
    jobs = [engine.generate(rows(PROMPTS[0]), version) for version in (None, 1, 0)]
    release.set()
    assert [result(jobs[0])[0], result(jobs[2])[0]] == [2, 0]
    for future in (jobs[1].started, jobs[1].finished):
        with pytest.raises(type(error), match="damaged"):
            future.result(WAIT)
    engine.close()


def test_the_queue_is_bounded_and_drained_when_the_engine_is_closed(live: LiveModel) -> None:
    engine = Engine(live, max_waiting=2)
    release = block(engine)
    waiting = [engine.generate(rows(PROMPTS[0])), engine.run(lambda: live.add(requests(0), "key"))]
    with pytest.raises(QueueFullError, match="2 requests wait"):
        engine.generate(rows(PROMPTS[0]))
    with pytest.raises(QueueFullError):
        engine.run(lambda: None)
    closing = threading.Thread(target=engine.close)
    closing.start()
    release.set()
    closing.join(WAIT)
    assert waiting[0].started.result(0) == 0
    assert waiting[1].result(0).version.number == 1
    with pytest.raises(ClosedError):
        engine.generate(rows(PROMPTS[0]))


def test_what_was_cancelled_while_it_waited_does_not_run(live: LiveModel) -> None:
    engine = Engine(live)
    release = block(engine)
    job, edit = engine.generate(rows(PROMPTS[0])), engine.run(lambda: live.add(requests(0), "key"))
    job.cancel()
    assert edit.cancel()
    release.set()
    with pytest.raises(ClosedError, match="cancelled"):
        job.finished.result(WAIT)
    with pytest.raises(CancelledError):
        edit.result(WAIT)
    assert result(engine.generate(rows(PROMPTS[0])))[0] == 0
    engine.close()


def test_an_error_reaches_those_who_wait_and_the_engine_goes_on(live: LiveModel) -> None:
    engine = Engine(live)

    def fail() -> None:
        raise EditError("no")

    with pytest.raises(EditError, match="no"):
        engine.run(fail).result(WAIT)
    broken = rows(PROMPTS[0])
    broken[0].prompt = [10**6]  # not in the vocabulary
    with pytest.raises(IndexError):
        engine.generate(broken).finished.result(WAIT)
    assert result(engine.generate(rows(PROMPTS[0])))[0] == 0
    engine.close()
