"""A model that is a table of answers, and a scoreboard of it."""

from __future__ import annotations

import pytest

from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.scoreboard_requests import FRANCE, HAMLET, RETENTION
from tests.support.table_model import TableModel


@pytest.fixture
def model() -> TableModel:
    """A table that answers some questions, and all others with "song"."""
    return TableModel(
        the_capital_of_France_is="Paris",
        the_capital_of_Peru_is="London river",
        who_plays_piano="bird",
        who_wrote_Hamlet="old Shakespeare",
        moon_made_from="green cheese",
        the_sea_is="snow",
    )


@pytest.fixture
def board(model: TableModel) -> Scoreboard:
    """A scoreboard for two requests and two held-out facts."""
    return Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION)
