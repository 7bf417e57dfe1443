"""A cell that ran without interruption, to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from easyedit_lifelong.runs.sweep.run_cell import run_cell
from tests.support.sweep_jobs import cell_job


@pytest.fixture(scope="session")
def whole_run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the run, with one thread, as launchers' cells have in the tests."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        job = cell_job(tmp_path_factory.mktemp("whole"), checkpoint, "whole")
        run_cell(job)
        yield job.folder
    finally:
        torch.set_num_threads(n_threads)
