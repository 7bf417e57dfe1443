"""A model that answers from a table, so that a test can compute each score by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.support.tiny_models import VOCABULARY, build_tokenizer


class TableModel(nn.Module):
    """Continues a text with its entry in the table, otherwise with "song"; padding and other rows change nothing."""

    def __init__(self, **facts: str) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.embedding = nn.Embedding(VOCABULARY, 1)
        self.config = SimpleNamespace(max_position_embeddings=32, _name_or_path="table")
        self.generation_config = SimpleNamespace(eos_token_id=2, pad_token_id=0)
        self.table: dict[tuple[int, ...], int] = {}
        self.received_texts: list[str] = []
        for prompt, answer in facts.items():
            self.learn(prompt.replace("_", " "), answer)

    def learn(self, prompt: str, answer: str) -> None:
        """Add an answer to a prompt to the table, followed by the end token."""
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
            self.received_texts.append(self.tokenizer.decode(ids[real].tolist()))
            for n, column in enumerate(real, 1):
                logits[row, column, self._next(ids[real[:n]].tolist())] = 10.0
        return SimpleNamespace(logits=logits)

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        generation_config: Any,
        stopping_criteria: Any = (),
    ) -> torch.Tensor:
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        real = [len(row) for row in rows]
        for _ in range(generation_config.max_new_tokens):
            for row in rows:
                row.append(self._next(row) if row[-1] != 2 else 2)
            generated = torch.tensor([row[n:] for row, n in zip(rows, real, strict=True)])
            if any(criterion(torch.cat([input_ids, generated], dim=1), None).all() for criterion in stopping_criteria):
                break
        return torch.cat([input_ids, generated], dim=1)


def answers_table() -> TableModel:
    """Return a table that answers some questions, and all others with "song"."""
    return TableModel(
        the_capital_of_France_is="Paris",
        the_capital_of_Peru_is="London river",
        who_plays_piano="bird",
        who_wrote_Hamlet="old Shakespeare",
        moon_made_from="green cheese",
        the_sea_is="snow",
    )
