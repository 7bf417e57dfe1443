"""Changes that are made while answers run: each answer is wholly that of the version that it began with."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits import state_folder
from easyedit_lifelong.edits.state_folder import StateFolder
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.shared.editors import carries_edits
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.serving import engine as engine_module
from easyedit_lifelong.serving import live_model as live_model_module
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.generation import Row
from easyedit_lifelong.serving.jobs import GenerationJob
from easyedit_lifelong.serving.live_model import LiveModel
from easyedit_lifelong.serving.static_batch import generate_rows
from tests.serving.test_mixed_versions import HPARAMS, SUBJECTS
from tests.support import subject_edits
from tests.support.answer_hooks import TOKENIZER, at_token, row
from tests.support.corpus import write_corpus
from tests.support.served_models import FACTS, OTHER_PROMPTS, PROMPTS, fine_tuning, live_model, requests

WAIT = 120
LONG = PROMPTS[2]
"""A prompt whose answers are long."""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveModel]:
    """A live model whose version 1 has three edits."""
    with live_model(tmp_path) as model:
        model.add(requests(0, 1, 2), "key")
        yield model


class Session:
    """Answers and changes that begin while a long answer runs, and the order in which they end.

    Args:
        live: the model.
        **settings: the engine's settings; by default, a change can follow each step.
    """

    def __init__(self, live: LiveModel, **settings: Any) -> None:
        self.live, self.ends = live, list[str]()
        self.engine = Engine(live, **{"change_share": 1, **settings})
        self.answers: list[tuple[GenerationJob, Row]] = []
        self.changes: list[Future[Any]] = []

    def ask(self, name: str, answer: Row, version: int | None = None) -> GenerationJob:
        """Ask for an answer."""
        job = self.engine.generate([answer], version)
        job.finished.add_done_callback(lambda _: self.ends.append(name))
        self.answers.append((job, answer))
        return job

    def change(self, name: str, function: Callable[[], Any]) -> Future[Any]:
        """Make a change."""
        future = self.engine.run(function)
        future.add_done_callback(lambda _: self.ends.append(name))
        self.changes.append(future)
        return future

    def close(self) -> None:
        """Wait for all answers and changes."""
        self.engine.close()
        assert all(future.done() for future in self.changes)
        assert all(job.finished.done() for job, _ in self.answers)

    def versions(self) -> list[int]:
        """The version of each answer."""
        return [job.started.result(0) for job, _ in self.answers]

    def check_answers(self) -> None:
        """Compare each answer with that of its version, offline and alone."""
        for job, answer in self.answers:
            job.finished.result(0)
            expected = Row(answer.prompt, answer.sampling)
            with self.live.at(job.started.result(0)) as model:
                generate_rows(model, TOKENIZER, [expected])
            assert (answer.text, answer.tokens) == (expected.text, expected.tokens), job.started.result(0)


def beside_a_long_answer(session: Session, *steps: Callable[[], object], prompt: str = LONG) -> Row:
    """Begin a long answer, do something after its third token, and wait for the end of everything."""
    long = row(prompt)
    at_token(long, 3, lambda: [step() for step in steps])
    session.ask("long", long)
    while not session.ends or "long" not in session.ends:
        time.sleep(0.005)
    session.close()
    assert len(long.tokens) > 20
    return long


def facts(*numbers: int) -> list[EditRequest]:
    return [EditRequest(f"f{number}", *FACTS[number], subject=SUBJECTS[number]) for number in numbers]


@pytest.mark.parametrize("method", HPARAMS)
def test_every_answer_has_the_version_that_it_began_with(tmp_path: Path, method: str) -> None:
    write_corpus(tmp_path)
    with live_model(tmp_path / "edits", HPARAMS[method](tmp_path)) as live:
        live.add(facts(0, 1, 2), "key")
        session = Session(live)

        def ask_all() -> None:
            for prompt in [*PROMPTS, *OTHER_PROMPTS]:
                session.ask("later", row(prompt))

        removes_single_edits = get_plugins().method_for(HPARAMS[method](tmp_path)).remove is not None
        changes = {
            "edit": lambda: live.add(facts(4), "key"),
            "delete": lambda: live.delete("f2", "key") if removes_single_edits else live.roll_back(1, "key"),
            "edit again": lambda: live.add(facts(3), "key"),
            "rollback": lambda: live.roll_back(0, "key"),
        }

        def change_all() -> None:
            for name, change in changes.items():
                session.change(name, change)
                ask_all()

        ask_all()
        at_token(session.answers[2][1], 2, change_all)
        session.answers[2][0].finished.result(WAIT)
        session.close()
        assert [future.exception() for future in session.changes] == [None] * 4
        count = len(PROMPTS) + len(OTHER_PROMPTS)
        assert session.versions() == [version for version in range(1, 6) for _ in range(count)]
        session.check_answers()
        assert len({job.rows[0].text for job, _ in session.answers[2::count]}) > 1, "the versions differ"


def test_a_change_is_made_before_the_running_answer_ends(live: LiveModel) -> None:
    session = Session(live)
    beside_a_long_answer(
        session,
        lambda: session.ask("before", row(PROMPTS[0])),
        lambda: session.change("edit", lambda: live.add(requests(4), "key")),
        lambda: session.ask("after", row(PROMPTS[0])),
        lambda: session.change("delete", lambda: live.delete("f2", "key")),
        lambda: session.change("rollback", lambda: live.roll_back(0, "key")),
        lambda: session.ask("last", row(LONG)),
    )
    assert [name for name in session.ends if name in ("edit", "delete", "rollback", "long")][-1] == "long"
    assert session.versions() == [1, 1, 2, 4]
    session.check_answers()
    assert session.answers[1][1].text != session.answers[2][1].text
    assert session.answers[0][1].text != session.answers[3][1].text


@pytest.mark.parametrize("point", ["training", "saving"])
def test_a_change_that_fails_leaves_the_answers_and_the_edits(
    live: LiveModel, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RunError("the disk is full")

    def change() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(*((LiveModel, "_apply") if point == "training" else (StateFolder, "save")), fail)
            live.add(requests(4), "key")

    session = Session(live)
    beside_a_long_answer(
        session,
        lambda: session.change("failed", change),
        lambda: session.ask("after", row(PROMPTS[0])),
        lambda: session.change("edit", lambda: live.add(requests(3), "key")),
        lambda: session.ask("last", row(PROMPTS[3])),
    )
    with pytest.raises(RunError, match="full"):
        session.changes[0].result(0)
    assert session.ends.index("failed") < session.ends.index("edit") < session.ends.index("long")
    assert session.versions() == [1, 1, 2]
    assert live.log.ids_at(2) == ["f0", "f1", "f2", "f3"]
    session.check_answers()


@pytest.mark.parametrize("change", ["add", "delete", "roll_back"])
def test_a_copy_that_can_not_be_loaded_fails_the_change_alone(
    live: LiveModel, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    live.add(requests(3), "key")
    before, arguments = live.model, {"add": requests(4), "delete": "f0", "roll_back": 1}

    def failing() -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RunError("damaged")

        with monkeypatch.context() as patch:
            patch.setattr(StateFolder, "load", fail)
            getattr(live, change)(arguments[change], "key")

    seen: list[bool] = []
    session = Session(live)
    beside_a_long_answer(
        session,
        lambda: session.change("failed", failing),
        lambda: session.change("look", lambda: seen.append(live.model is before and live.present.usable)),
        lambda: session.ask("after", row(PROMPTS[0])),
    )
    with pytest.raises(RunError, match="damaged"):
        session.changes[0].result(0)
    assert session.ends.index("failed") < session.ends.index("long")
    assert seen == [True]
    assert session.versions() == [2, 2]
    session.check_answers()
    assert live.add(requests(4), "key").version.number == 3


def test_a_copy_is_made_only_if_answers_run_on_the_present_model(live: LiveModel) -> None:
    live.add(requests(3), "key")
    models: list[Any] = []

    def note() -> None:
        models.append(live.model)

    def edit(number: int) -> Callable[[], None]:
        def change() -> None:
            live.add(requests(number), "key")
            note()

        return change

    session = Session(live)
    note()
    long = row(LONG)
    at_token(long, 3, lambda: session.change("edit", edit(4)))
    session.ask("earlier", row(LONG), 1)
    session.ask("base", long, 0).finished.result(WAIT)
    session.close()
    assert models[1] is models[0], "these answers run on other models"
    session.check_answers()

    session = Session(live)
    beside_a_long_answer(
        session,
        lambda: session.change("explain", lambda: [live.explain(PROMPTS[0], live.version), note()]),
        lambda: session.change("first", edit(5)),
        lambda: session.change("second", lambda: [live.delete("f5", "key"), note()]),
    )
    assert [future.exception() for future in session.changes] == [None] * 3
    assert session.ends.index("second") < session.ends.index("long")
    assert models[2] is models[1], "an explanation changes nothing"
    assert models[3] is not models[2] and models[4] is models[3]
    session.check_answers()


def test_no_copy_is_made_for_answers_without_edits(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        before, session = live.model, Session(live)
        beside_a_long_answer(
            session,
            lambda: session.change("edit", lambda: live.add(requests(0), "key")),
            lambda: session.ask("after", row(PROMPTS[0])),
            prompt=OTHER_PROMPTS[0],
        )
        assert session.ends.index("edit") < session.ends.index("long")
        assert live.model is before
        session.check_answers()


def test_a_model_that_was_left_to_answers_is_freed(live: LiveModel) -> None:
    left = weakref.ref(live.model)
    edited: list[bool] = []
    session = Session(live)
    beside_a_long_answer(
        session,
        lambda: session.change("edit", lambda: live.add(requests(4), "key")),
        lambda: session.change("look", lambda: edited.append(carries_edits(left()))),
        lambda: session.ask("after", row(LONG, max_tokens=60)),
        lambda: session.change("delete", lambda: live.delete("f4", "key")),
    )
    assert edited == [True]
    model = left()
    assert model is None or not carries_edits(model), "the codebook needs no garbage collection"
    del model
    gc.collect()
    assert left() is None
    session.check_answers()


def test_an_answer_that_ends_releases_its_model_while_others_run(live: LiveModel) -> None:
    before = live.model
    edited: list[bool] = []
    session = Session(live)

    def after_short(_: Any) -> None:
        session.change("look", lambda: edited.append(carries_edits(before)))

    short, later = row(LONG, max_tokens=8), row(OTHER_PROMPTS[0])
    at_token(
        short,
        3,
        lambda: [session.change("edit", lambda: live.add(requests(4), "key")), session.ask("later", later)],
    )
    job = session.ask("short", short)
    job.finished.add_done_callback(after_short)
    job.finished.result(WAIT)
    session.close()
    assert edited == [False]
    assert session.ends.index("look") < session.ends.index("later")
    session.check_answers()


@pytest.mark.parametrize("case", ["edits in weights", "many edits"])
def test_otherwise_a_change_waits_for_running_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if case == "many edits":
        monkeypatch.setattr(live_model_module, "MAX_COPIED_EDITS", 2)
    with live_model(tmp_path, fine_tuning() if case == "edits in weights" else None) as live:
        live.add(requests(0, 1, 3), "key")
        session = Session(live)
        beside_a_long_answer(
            session,
            lambda: session.change("edit", lambda: live.add(requests(4), "key")),
            lambda: session.ask("after", row(PROMPTS[0])),
            prompt=OTHER_PROMPTS[0],
        )
        assert session.ends == ["long", "edit", "after"]
        assert session.versions() == [1, 2]
        session.check_answers()


def test_what_changes_nothing_does_not_wait_for_answers(live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_model_module, "MAX_COPIED_EDITS", 2)
    session = Session(live)

    def explain() -> None:
        future = session.engine.run(lambda: live.explain(LONG, live.version), changes=False)
        future.add_done_callback(lambda _: session.ends.append("explained"))

    beside_a_long_answer(
        session,
        explain,
        lambda: session.change("cancelled", lambda: live.add(requests(4), "key")).cancel(),
        lambda: session.ask("short", row(OTHER_PROMPTS[0], max_tokens=4)),
    )
    assert session.ends[-1] == "long"
    assert sorted(session.ends[:-1]) == ["cancelled", "explained", "short"]
    session.check_answers()


def test_edits_that_can_not_be_removed_from_a_model_fail_no_answer(live: LiveModel, caplog: Any) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("can't be removed")

    session = Session(live)
    live.present._remove = fail
    beside_a_long_answer(session, lambda: session.change("edit", lambda: live.add(requests(4), "key")))
    assert "can't be removed" in caplog.text
    assert [future.exception() for future in session.changes] == [None]
    session.check_answers()


def test_answers_wait_where_a_batch_has_the_most_versions(live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_VERSIONS", 2)
    session = Session(live)
    beside_a_long_answer(
        session,
        lambda: session.change("edit", lambda: live.add(requests(3), "key")),
        lambda: session.ask("second", row(OTHER_PROMPTS[0], max_tokens=55)),
        lambda: session.change("delete", lambda: live.delete("f2", "key")),
        lambda: session.ask("third", row(PROMPTS[0])),
    )
    assert session.ends.index("delete") < session.ends.index("long") < session.ends.index("third")
    assert session.versions() == [1, 2, 3]
    session.check_answers()


def test_answers_run_for_as_long_as_a_change_before_the_next_one(live: LiveModel) -> None:
    seconds, times = 0.05, list[tuple[float, int]]()
    long = row(LONG)

    def sleep() -> None:
        times.append((time.perf_counter(), len(long.tokens)))
        time.sleep(seconds)
        times.append((time.perf_counter(), len(long.tokens)))

    def slow(_: str) -> None:
        if not times and not session.changes:
            session.change("first", sleep)
            session.change("second", sleep)
        time.sleep(seconds / 10)

    session = Session(live, change_share=0.5)
    long.on_text = slow
    session.ask("long", long).finished.result(WAIT)
    session.close()
    (_, _), (end, before), (begin, after), (_, _) = times
    assert begin - end > seconds * 0.9
    assert before + 2 < after < len(long.tokens)


def test_a_cancelled_change_is_not_made(live: LiveModel) -> None:
    session = Session(live)
    beside_a_long_answer(
        session,
        lambda: session.change("edit", lambda: live.add(requests(4), "key")).cancel(),
        lambda: session.ask("after", row(PROMPTS[0])),
    )
    assert session.versions() == [1, 1]
    assert live.version == 1


def test_an_edit_in_mid_answer_saves_and_measures_what_is_new_only(
    live: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    asked: list[Sequence[str]] = []
    write_step, answered = state_folder.write_step, live._measured.answered

    def recording_step(path: Path, *arguments: Any) -> Any:
        written.append(path.name)
        return write_step(path, *arguments)

    def recording_answers(model: Any, edits: Sequence[Any]) -> Any:
        asked.append([edit.id for edit in edits])
        return answered(model, edits)

    monkeypatch.setattr(state_folder, "write_step", recording_step)
    monkeypatch.setattr(live._measured, "answered", recording_answers)
    session = Session(live)
    beside_a_long_answer(session, lambda: session.change("edit", lambda: live.add(requests(3), "key")))
    assert session.changes[0].result(0).superseded == []
    assert len(written) == 1
    assert not asked  # the text of a single edit shows whether it was learned
    session = Session(live)
    beside_a_long_answer(session, lambda: session.change("edit", lambda: live.add(requests(4), "key")))
    assert session.changes[0].result(0).superseded == ["f0"]
    assert len(written) == 2
    assert asked == [["f0"]]


def test_neuraldb_prepares_a_copy_with_what_it_has_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("computed again")

    write_corpus(tmp_path)
    with live_model(tmp_path / "edits", HPARAMS["NeuralDB"](tmp_path)) as live:
        live.add(facts(0), "key")
        monkeypatch.setattr("easyedit_lifelong.methods.neuraldb.make_edits.context_templates", fail)
        session = Session(live)
        beside_a_long_answer(session, lambda: session.change("edit", lambda: live.add(facts(1), "key")))
        assert session.changes[0].result(0).version.number == 2
        session.check_answers()


LATER = {
    "GRACE by subject": lambda folder: subject_edits.hparams("subject-plain", folder=folder),
    "NeuralDB": HPARAMS["NeuralDB"],
}


@pytest.mark.parametrize("method", LATER)
def test_a_value_that_a_later_token_finds_is_that_of_the_answers_version(tmp_path: Path, method: str) -> None:
    write_corpus(tmp_path)
    with live_model(tmp_path / "edits", LATER[method](tmp_path)) as live:
        live.add(facts(0, 1, 2, 3), "key")

        def sampled(seed: int) -> Row:
            return row("blue", temperature=1.0, seed=seed)

        def tokens_at(version: int) -> list[list[int]]:
            rows = [sampled(seed) for seed in range(60)]
            with live.at(version) as model:
                generate_rows(model, TOKENIZER, rows)
            return [answer.tokens for answer in rows]

        # An answer in which an edit acts for the first time at a token that it has generated itself.
        pairs = list(zip(tokens_at(1), tokens_at(0), strict=True))
        seed = next(n for n, (edited, base) in enumerate(pairs) if edited[:6] == base[:6] and edited != base)
        session, answer = Session(live), sampled(seed)
        at_token(answer, 3, lambda: session.change("rollback", lambda: live.roll_back(0, "key")))
        session.ask("answer", answer).finished.result(WAIT)
        session.close()
        assert session.ends == ["rollback", "answer"]
        assert answer.tokens == pairs[seed][0]
