"""Batches that begin together: for models whose rows can't join, and for edits that don't act by row."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.serving.batches import open_batch
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.generation import Row, Sampling
from easyedit_lifelong.serving.static_batch import StaticBatch
from tests.serving.test_mixed_versions import five_versions
from tests.support.served_models import OTHER_PROMPTS, PROMPTS, grace
from tests.support.tiny_models import build_model, build_tokenizer

TOKENIZER = build_tokenizer()


def row(prompt: str, max_tokens: int = 4) -> Row:
    return Row(TOKENIZER(prompt)["input_ids"], Sampling(max_tokens=max_tokens))


def test_a_long_prompt_and_a_long_answer_are_not_one_batch() -> None:
    model = build_model("llama")
    sizes: list[int] = []

    def of_rows(versions: Any) -> Any:
        sizes.append(len(versions))
        return contextlib.nullcontext(model)

    batch = StaticBatch(of_rows, model, TOKENIZER, 8)
    batch.add(row("the " * 55), 0)
    assert not batch.has_room([row("the", 50)])
    assert batch.has_room([row("the")]) and not batch.has_room([row("the")] * 8)
    long = row("the", 50)  # of the same request, so it is in the batch, but generated after the other
    batch.add(long, 0)
    assert batch.step() == 2 and sizes == [1, 1]
    assert long.finish_reason is not None
    assert batch.has_room([row("the", 50)]), "a step generates all answers"


def test_a_server_of_a_model_whose_rows_can_not_join_gives_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(live: Any) -> list[tuple[int, list[int]]]:
        engine = Engine(live)
        jobs = [
            engine.generate([row(prompt, 6)], version)
            for prompt in [*PROMPTS, *OTHER_PROMPTS]
            for version in (0, 2, None, 4)
        ]
        for job in jobs:
            job.finished.result(60)
        engine.close()
        return [(job.started.result(), job.rows[0].tokens) for job in jobs]

    with five_versions(tmp_path, grace()) as live:
        joined = answers(live)
        monkeypatch.setattr("easyedit_lifelong.serving.live_model.can_cache_rows", lambda _: False)
        with open_batch(live, 0, 8) as batch:
            assert isinstance(batch, StaticBatch)
        assert answers(live) == joined
