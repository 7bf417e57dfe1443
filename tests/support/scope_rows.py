"""A scope study with known z-scores, for tests of its figures, files and plot."""

from __future__ import annotations

from easyedit_lifelong.evaluation.scope import PARAPHRASE, PROMPT, ScopeRow, ScopeStudy


def row(kind: str, z: list[float], subject: int | None, case_id: int = 0) -> ScopeRow:
    tokens = tuple(f"t{n}" for n in range(len(z)))
    return ScopeRow(case_id, kind, " ".join(tokens), tokens, tuple(z), subject)


NAN = float("nan")
SCOPE = ScopeStudy(
    "model.layers.2.mlp.down_proj",
    1.5,
    (
        row(PROMPT, [0.0, 2.0, -1.0], 1),
        row(PROMPT, [1.5, 1.0, 0.5], 1),
        row(PROMPT, [NAN], 0),
        row(PARAPHRASE, [0.5, 0.25], None),
        row(PARAPHRASE, [3.0, 2.0, 1.0], 0),
    ),
    threshold=1.5,
)
