"""A collection that was killed resumes at its last checkpoint and ends bitwise equal."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.covariance import native_engine, obtain_moments, stored
from easyedit_lifelong.covariance.blocks import Position
from easyedit_lifelong.covariance.checkpoints import Checkpoints, Progress
from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.covariance.shards import Shard
from tests.support.second_moments import MODULES, make_texts

TEXTS = make_texts(80, seed=5)
LAYERS = [MODULES["llama"].format(layer) for layer in (0, 1)]


class Killed(Exception):
    """Stops a collection in this process."""


def _killer(after: int) -> Any:
    """Return a progress function that stops the collection at its n-th call."""
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == after:
            raise Killed

    return progress


def obtain(model: Any, tokenizer: Any, folder: Path, modules: list[str] = LAYERS, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "stats_dir": folder,
        "dataset": TEXTS,
        "n_tokens": 1000,
        "block_tokens": 100,
        "save_every": 0,
    }
    return obtain_moments(model, tokenizer, modules, **{**defaults, **options})


def are_bitwise_equal(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(torch.equal(a[m].moment, b[m].moment) and a[m].count == b[m].count for m in a)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the numbers of the blocks that are counted."""
    counted: list[int] = []
    add_to_sums = native_engine.add_block

    def add_block(collector: Any, block: Any) -> None:
        counted.append(block.after.block)
        add_to_sums(collector, block)

    monkeypatch.setattr(native_engine, "add_block", add_block)
    return counted


@pytest.mark.parametrize("corpus", ["texts", "self"])
def test_a_resumed_collection_is_bitwise_equal_and_counts_each_block_once(
    llama: Any, tokenizer: Any, tmp_path: Path, blocks: list[int], corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("easyedit_lifelong.covariance.sampling.ROWS", 2)
    dataset: Any = TEXTS if corpus == "texts" else "self"
    uninterrupted = obtain(llama, tokenizer, tmp_path / "uninterrupted", dataset=dataset)
    n_blocks = len(blocks)
    assert n_blocks > 5
    blocks.clear()
    for after in (2, 1, 2):
        with pytest.raises(Killed):
            obtain(llama, tokenizer, tmp_path / "killed", dataset=dataset, progress=_killer(after))
    assert are_bitwise_equal(obtain(llama, tokenizer, tmp_path / "killed", dataset=dataset), uninterrupted)
    assert blocks == list(range(1, n_blocks + 1))
    assert not list((tmp_path / "killed").rglob(".*"))  # no checkpoint is left


def test_a_collection_killed_by_sigkill_resumes_to_identical_files(checkpoint: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from easyedit_lifelong import load_model
        from easyedit_lifelong.covariance import native_engine, obtain_moments, stored
        from tests.support.second_moments import MODULES, make_texts

        model, tokenizer = load_model(sys.argv[1], "cpu")
        kill_at = int(sys.argv[3])
        seen = []
        def progress(done, total):
            seen.append(done)
            print("done", done, flush=True)
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        layers = [MODULES["llama"].format(layer) for layer in (0, 1)]
        texts = make_texts(80, seed=5)
        obtain_moments(model, tokenizer, layers, stats_dir=sys.argv[2], dataset=texts, n_tokens=1000,
                       block_tokens=100, save_every=0, progress=progress)
        """
    )

    def run(folder: str, kill_at: int) -> tuple[int, list[int]]:
        done = subprocess.run(
            [sys.executable, "-c", script, str(checkpoint), str(tmp_path / folder), str(kill_at)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            timeout=300,
            check=False,
        )
        return done.returncode, [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("done")]

    code, reported = run("killed", 4)
    assert code == -signal.SIGKILL
    code, reported_after = run("killed", 0)
    assert code == 0 and reported_after[0] > reported[-1]  # tokens that were reported aren't counted again
    assert run("uninterrupted", 0) == (0, reported + reported_after)
    files = sorted(path.relative_to(tmp_path / "uninterrupted") for path in (tmp_path / "uninterrupted").rglob("*.npz"))
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "uninterrupted" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


def test_unfinished_sums_of_more_layers_are_used_for_fewer_layers(
    llama: Any, tokenizer: Any, tmp_path: Path, blocks: list[int]
) -> None:
    uninterrupted = obtain(llama, tokenizer, tmp_path / "uninterrupted", LAYERS[1:])
    blocks.clear()
    with pytest.raises(Killed):
        obtain(llama, tokenizer, tmp_path / "killed", progress=_killer(3))
    assert are_bitwise_equal(obtain(llama, tokenizer, tmp_path / "killed", LAYERS[1:]), uninterrupted)
    assert blocks == list(range(1, len(blocks) + 1))


def test_a_collection_killed_while_storing_counts_no_block_again(
    llama: Any, tokenizer: Any, tmp_path: Path, blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_moments = stored.write_moments

    def write(path: Path, *rest: Any, **options: Any) -> None:
        if LAYERS[1] in path.name:
            raise Killed
        write_moments(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stored, "write_moments", write)
        with pytest.raises(Killed):
            obtain(llama, tokenizer, tmp_path)
    blocks.clear()
    found = obtain(llama, tokenizer, tmp_path)
    assert blocks == []
    assert are_bitwise_equal(found, obtain(llama, tokenizer, tmp_path / "uninterrupted"))


@pytest.mark.parametrize(
    "change",
    [
        {"n_tokens": 1100},
        {"seed": 1},
        {"context": 9},
        {"dtype": "float64"},
        {"dataset": TEXTS[1:]},
        {"block_tokens": 99},
    ],
)
def test_unfinished_sums_of_other_settings_are_not_used(
    llama: Any, tokenizer: Any, tmp_path: Path, blocks: list[int], change: dict[str, Any]
) -> None:
    with pytest.raises(Killed):
        obtain(llama, tokenizer, tmp_path, progress=_killer(3))
    blocks.clear()
    obtain(llama, tokenizer, tmp_path, **change)
    assert blocks[0] == 1


def test_unfinished_sums_of_other_weights_are_not_used(
    llama: Any, tokenizer: Any, tmp_path: Path, blocks: list[int]
) -> None:
    with pytest.raises(Killed):
        obtain(llama, tokenizer, tmp_path, progress=_killer(3))
    blocks.clear()
    with torch.no_grad():
        llama.model.embed_tokens.weight[9, 3] += 1
    obtain(llama, tokenizer, tmp_path)
    assert blocks[0] == 1


def test_unreadable_unfinished_sums_are_ignored_with_a_warning(
    llama: Any, tokenizer: Any, tmp_path: Path, blocks: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        obtain(llama, tokenizer, tmp_path, progress=_killer(3))
    (partial,) = tmp_path.rglob(".partial-*.npz")
    partial.write_bytes(partial.read_bytes()[:-50])
    blocks.clear()
    with caplog.at_level(logging.WARNING):
        found = obtain(llama, tokenizer, tmp_path)
    assert blocks[0] == 1 and "can't be read, starting again" in caplog.text
    assert are_bitwise_equal(found, obtain(llama, tokenizer, tmp_path / "uninterrupted"))


def test_checkpoints_are_written_at_intervals_that_grow_with_their_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("easyedit_lifelong.covariance.checkpoints.time.monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, {"what": 1}, Shard(), every=30)
    progress = Progress({"m": MomentSum(3)}, Position(1, 1, 1))
    assert not checkpoints.save(progress)
    now[0] += 29
    assert not checkpoints.save(progress)
    now[0] += 2
    assert checkpoints.save(progress)
    checkpoints._save_seconds = 10
    now[0] += 31
    assert not checkpoints.save(progress)
    now[0] += 200
    assert checkpoints.save(progress)
