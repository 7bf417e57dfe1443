"""Tables of the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from easyedit_lifelong.reporting.console_tables import score_table


def test_the_unedited_models_score_is_shown_in_the_same_row() -> None:
    console = Console(file=io.StringIO(), width=120)
    score_table(console, {"TRR": 0.5, "TRR_before": 0.625, "ES": 1.0}, "title")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = {line.split()[0]: line.split()[1:4] for line in lines if line.strip()}
    assert rows["TRR"][:2] == ["0.625", "0.500"]
    assert rows["ES"][:2] == ["1.000", "teacher-forced"]
    assert "TRR_before" not in rows
