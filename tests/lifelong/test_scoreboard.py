"""Scores of many edits, against hand-computed ones: the model is a table that says exactly what it is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, build_tokenizer
from torch import nn

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.scoring import Scorer
from easyedit_lifelong.lifelong.scoreboard import Questions, Scoreboard


class TableModel(nn.Module):
    """Continues a text with what its table holds for it, else with "song"; knows no company, no padding.

    With it, every score of a run can be computed by hand.
    """

    def __init__(self, **facts: str) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.embedding = nn.Embedding(VOCABULARY, 1)
        self.config = SimpleNamespace(max_position_embeddings=32, _name_or_path="table")
        self.generation_config = SimpleNamespace(eos_token_id=2, pad_token_id=0)
        self.table: dict[tuple[int, ...], int] = {}
        self.asked: list[str] = []
        for prompt, answer in facts.items():
            self.learn(prompt.replace("_", " "), answer)

    def learn(self, prompt: str, answer: str) -> None:
        """Answer a prompt so from now on, and then stop."""
        ids = list(self.tokenizer(prompt)["input_ids"])
        for token in [*self.tokenizer(answer)["input_ids"], 2]:
            self.table[tuple(ids)] = token
            ids.append(token)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def _next(self, ids: list[int]) -> int:
        return self.table.get(tuple(ids), self.tokenizer.convert_tokens_to_ids("song"))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool = False) -> Any:
        logits = torch.zeros(*input_ids.shape, VOCABULARY)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            real = mask.nonzero().flatten().tolist()
            self.asked.append(self.tokenizer.decode(ids[real].tolist()))
            for n, column in enumerate(real, 1):
                logits[row, column, self._next(ids[real[:n]].tolist())] = 10.0
        return SimpleNamespace(logits=logits)

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any) -> torch.Tensor:
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            said = ids[mask.bool()].tolist()
            for _ in range(generation_config.max_new_tokens):
                said.append(self._next(said) if said[-1] != 2 else 2)
            rows.append(ids.tolist() + said[int(mask.sum()) :])
        return torch.tensor(rows)


FRANCE = EditRequest(
    "fr", "the capital of France is", "Rome", rephrase_prompts=("capital of France",),
    locality={"near": (Probe("the capital of Peru is", "London city"), Probe("who plays piano", "Shakespeare"))},
    portability={"hop": (Probe("language spoken in France", "Spanish"),)},
)  # fmt: skip
HAMLET = EditRequest("ha", "who wrote Hamlet", "old king", rephrase_prompts=("Hamlet is made", "Hamlet from"))
RETENTION = [Probe("moon made from", "green cheese"), Probe("the sea is", "blue")]


@pytest.fixture
def model() -> TableModel:
    return TableModel(
        the_capital_of_France_is="Paris", the_capital_of_Peru_is="London river", who_plays_piano="bird",
        who_wrote_Hamlet="old Shakespeare", moon_made_from="green cheese", the_sea_is="snow",
    )  # fmt: skip


@pytest.fixture
def board(model: TableModel) -> Scoreboard:
    return Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION)


def test_before(board: Scoreboard) -> None:
    assert board.before([FRANCE, HAMLET]) == {
        "reliability_before": (0 + 0.5) / 2,  # "old" of "old king"
        "generality_before": 0.0,
        "portability_before": 0.0,  # "song" for "Spanish"
        "TRR_before": (1 + 0) / 2,  # "green cheese", and "snow" for "blue"
    }


def test_portability_before_is_the_unedited_models(model: TableModel) -> None:
    """Half right before, wrong after: what an edit did to portability shows in the two together."""
    model.learn("language spoken in France", "Spanish song")
    request = EditRequest(
        0, FRANCE.prompt, "Rome", portability={"hop": (Probe("language spoken in France", "Spanish bird"),)}
    )
    board = Scoreboard(Scorer(model.tokenizer), model, [request], [])
    model.learn("language spoken in France", "not")
    assert board.before([request])["portability_before"] == 0.5
    assert board.score(model, [request])["portability"] == 0.0
    assert "portability_before" not in board.before([])


def test_unedited(board: Scoreboard, model: TableModel) -> None:
    assert board.score(model, [FRANCE, HAMLET]) == {
        "ERR": 0.25, "reliability": 0.25, "generality": 0.0, "TRR": 0.5,
        "locality": 1.0,  # wrong answers, but the same ones
        "portability": 0.0,
    }  # fmt: skip


def test_edited(board: Scoreboard, model: TableModel) -> None:
    model.learn(FRANCE.prompt, "Rome")
    model.learn("Hamlet is made", "old king")
    model.learn("Hamlet from", "old song")
    model.learn("the capital of Peru is", "Spanish")  # damage: 1 of the 2 tokens forced along "London city" changes
    model.learn("language spoken in France", "Spanish")
    model.learn("the sea is", "blue")
    assert board.score(model, [FRANCE, HAMLET]) == {
        "ERR": (1 + 0.5) / 2,
        "reliability": (1 + 0.5) / 2,
        "generality": pytest.approx((0 + 1 + 0.5) / 3),  # each wording counts once
        "TRR": 1.0,
        "locality": (0.5 + 1) / 2,
        "portability": 1.0,
    }


def test_only_what_is_asked_about(board: Scoreboard, model: TableModel) -> None:
    """No locality prompt, no locality: neither 1 nor 0."""
    assert set(board.score(model, [HAMLET])) == {"ERR", "reliability", "generality", "TRR"}
    assert board.score(model, []) == {"TRR": 0.5}
    assert board.before([]) == {"TRR_before": 0.5}
    bare = Scoreboard(Scorer(model.tokenizer), model, [HAMLET], [])
    assert "TRR" not in bare.score(model, [HAMLET])


def test_the_unedited_model_is_asked_once(board: Scoreboard, model: TableModel) -> None:
    """Before is before: it can't be asked again once the model is edited in place."""
    model.asked.clear()
    model.learn(FRANCE.prompt, "Rome")
    assert board.before([FRANCE])["reliability_before"] == 0.0
    assert model.asked == []


def test_the_order_of_edits_does_not_matter(board: Scoreboard, model: TableModel) -> None:
    model.learn(FRANCE.prompt, "Rome")
    assert board.score(model, [FRANCE, HAMLET]) == board.score(model, [HAMLET, FRANCE])


def test_free_generation(board: Scoreboard, model: TableModel) -> None:
    model.learn(FRANCE.prompt, "Rome")
    model.learn("Hamlet from", "old king of the sea")
    scores, texts = board.score_generation(model, [FRANCE, HAMLET])
    assert texts == ["Rome", "old Shakespeare"]
    assert scores == {
        "generation_match": 0.5,
        "generation_match_word": 0.5,
        "generation_match_rephrase": pytest.approx(1 / 3),
    }


def test_free_generation_has_room_for_the_answer(board: Scoreboard, model: TableModel) -> None:
    (text,) = board.generate(model, [("who are born", "blue sea mountain")], extra_tokens=2)
    assert text.split() == ["song"] * 5


def test_questions_keep_their_order() -> None:
    questions = Questions.about([FRANCE, HAMLET])
    assert questions.edit == [(FRANCE.prompt, "Rome"), (HAMLET.prompt, "old king")]
    assert questions.rephrase == [
        ("capital of France", "Rome"), ("Hamlet is made", "old king"), ("Hamlet from", "old king"),
    ]  # fmt: skip
    assert questions.locality == [("the capital of Peru is", "London city"), ("who plays piano", "Shakespeare")]
    assert questions.portability == [("language spoken in France", "Spanish")]


def test_a_locality_prompt_that_is_also_retained(model: TableModel) -> None:
    """The same question in two roles is one question to the unedited model, and counts in both."""
    request = EditRequest(0, FRANCE.prompt, "Rome", locality={"near": (RETENTION[0],)})
    board = Scoreboard(Scorer(model.tokenizer), model, [request], RETENTION)
    model.learn("moon made from", "old")
    # Forced along "green cheese": the first token is now another, the second, given "green", still the same.
    scores = board.score(model, [request])
    assert scores["locality"] == 0.5
    assert scores["TRR"] == (0.5 + 0) / 2
