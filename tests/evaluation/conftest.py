"""A model that is a table of answers, and a scoreboard of it."""

from __future__ import annotations

import pytest

from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.scoreboard_requests import FRANCE, HAMLET, RETENTION
from tests.support.table_model import TableModel, answers_table


@pytest.fixture
def model() -> TableModel:
    """A table that answers some questions, and all others with "song"."""
    return answers_table()


@pytest.fixture
def board(model: TableModel) -> Scoreboard:
    """A scoreboard for two requests and two held-out facts."""
    return Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION)
