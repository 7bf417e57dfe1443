"""Several processes collect the second moments that one process collects."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from easyedit_lifelong import load_model
from easyedit_lifelong.covariance import collect_covariance
from easyedit_lifelong.covariance.npz import read_moments
from easyedit_lifelong.covariance.shards import (
    Shard,
    current_shard,
    on_first_process,
    sum_over_processes,
    torchrun_processes,
)
from tests.support.second_moments import make_texts
from tests.support.thoroughness import default_cases


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _start_two_processes(checkpoint: Path, out: Path, corpus: str, *more: str) -> list[subprocess.Popen[str]]:
    """Start the command line in two processes, as torchrun does."""
    command = [
        sys.executable,
        "-m",
        "easyedit_lifelong",
        "covariance",
        "--model",
        str(checkpoint),
        "--layers",
        "0-1",
        "--corpus",
        corpus,
        "--out",
        str(out),
        "--device",
        "cpu",
        *more,
    ]
    group = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def _finish(running: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    results = []
    for process in running:
        try:
            out, err = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            for unfinished in running:
                unfinished.kill()
            raise
        results.append((process.returncode, out, err))
    return results


@pytest.mark.parametrize("kind", default_cases(["file", "self"], "file"))
def test_two_processes_give_the_moments_of_one(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(make_texts(1500)))
    name = str(corpus) if kind == "file" else "self"
    running = _start_two_processes(checkpoint, tmp_path / "two", name, "--tokens", "20000")
    model, tokenizer = load_model(checkpoint, "cpu")
    collect_covariance(model, tokenizer, [0, 1], name, tokens=20000, out=tmp_path / "one")
    results = _finish(running)
    assert [code for code, _, _ in results] == [0, 0], results
    assert "model.layers.1.mlp.down_proj" in results[0][1] and results[1][1] == ""  # only the first process prints
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.npz"))
    assert files == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.npz"))
    assert len(files) == 2
    for file in files:
        of_one, of_two = read_moments(tmp_path / "one" / file), read_moments(tmp_path / "two" / file)
        assert of_one.count == of_two.count == 20000
        torch.testing.assert_close(of_two.moment, of_one.moment, rtol=1e-6, atol=1e-7)
    assert not list((tmp_path / "two").rglob(".partial*"))


def test_an_error_in_the_first_process_ends_both(checkpoint: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(make_texts(50)))
    label = str(checkpoint).replace("/", "_")
    stats = tmp_path / "out" / label / "corpus_stats"
    stats.mkdir(parents=True)
    np.savez(stats / "model.layers.1.mlp.down_proj_float32_mom2_50tokens.npz", nonsense=np.eye(2))
    results = _finish(_start_two_processes(checkpoint, tmp_path / "out", str(corpus), "--tokens", "50"))
    assert [code for code, _, _ in results] == [1, 1], results
    assert all("holds no second moments" in err and "Traceback" not in err for _, _, err in results)


def test_a_single_process_is_the_only_shard() -> None:
    shard = current_shard()
    assert shard == Shard(0, 1, None) and shard.is_first and shard.owns_block(17)
    assert on_first_process(shard, lambda: 5) == 5
    sum_over_processes(shard, [])
    with torchrun_processes() as first:
        assert first


def test_every_block_belongs_to_one_shard() -> None:
    shards = [Shard(rank, 3) for rank in range(3)]
    assert all(sum(shard.owns_block(block) for shard in shards) == 1 for block in range(20))
