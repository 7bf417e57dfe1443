"""Edits of a model that tensor parallelism splits over two processes (gloo)."""

from __future__ import annotations

import json
import multiprocessing
import socket
from pathlib import Path

import pytest
import torch

from easyedit_lifelong import load_edits
from tests.support.command_killer import observed
from tests.support.split_models import MLP, PROJECTION, observe, run_process
from tests.support.tiny_models import build_model


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="forks processes")
def test_a_split_model_gets_the_same_edits_in_each_process(checkpoint: Path, tmp_path: Path) -> None:
    model = build_model("llama")
    whole = observe(model, tmp_path / "whole")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.split_models"])
    processes = [context.Process(target=run_process, args=(rank, port, checkpoint, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["fingerprint"] == whole["fingerprint"]
    for name in ("unedited", "edited"):
        torch.testing.assert_close(torch.tensor(first[name]), torch.tensor(whole[name]), atol=1e-4, rtol=1e-4)
    assert first["rolled back"] == first["unedited"] != first["edited"]
    assert observed(tmp_path / "edits-0") == observed(tmp_path / "edits-1")
    # Edits of either model work on the other.
    expected = torch.tensor(whole["edited"])
    torch.testing.assert_close(torch.tensor(first["edits of the whole model"]), expected, atol=1e-4, rtol=1e-4)
    load_edits(model, tmp_path / "edits-1")
    grace, ultraedit = first["errors"]
    for message in (grace, ultraedit):
        assert f"{PROJECTION} is split over processes by tensor parallelism" in message
    assert grace.endswith(f"such as {MLP}.")
