"""What was decided about a prompt, layer by layer and token by token; printed, it is a table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KeyAtToken:
    """The key nearest to a token's query.

    Attributes:
        token: the token's text.
        key: which key.
        case_id: the case that it answers for.
        distance: from the query to it, in units of the distance function.
        radius: its deferral radius.
        within: whether it would answer here.
        looked_up: whether the codebook is asked here: at the prompt's last token; with ``query_token: subject_last``
            at every token.
        replaced: whether a value has taken the place of the layer's output here. With ``answer_layer`` the prompt's
            last token gets the value of a key that was found before; then ``key`` is that key.
        gate_distance: from the prompt's last token to the key's gate, in cosine distance; None where no key was
            found or there are no gates.
    """

    token: str
    key: int
    case_id: int | str
    distance: float
    radius: float
    within: bool
    looked_up: bool
    replaced: bool
    gate_distance: float | None = None

    @property
    def fired(self) -> bool:
        """Whether the codebook was asked here, and the key answered."""
        return self.looked_up and self.within


@dataclass(frozen=True)
class GraceLayer:
    """What a codebook did.

    Attributes:
        layer: path of the layer that is looked up.
        tokens: the key nearest to every token.
        answered_by: the case whose value was put in, the first of several; None if the prompt was deferred to the
            model.
        query_token: which tokens are looked up.
        gate_eps: how far a gate may be for its edit to answer; None if there are no gates.
    """

    layer: str
    tokens: list[KeyAtToken]
    answered_by: int | str | None
    query_token: str = "prompt_last"
    gate_eps: float | None = None

    def lines(self) -> list[str]:
        """Return a table, a line for each token."""
        lines = [f"GRACE {self.layer}: {_deferred_or(self.answered_by)}"]
        by_subject = self.query_token == "subject_last"
        for token in self.tokens:
            # Where all tokens are looked up, it says nothing that one is.
            marks = "  found" * token.fired if by_subject else "  looked up" * token.looked_up
            if token.gate_distance is not None and self.gate_eps is not None:
                kept_back = token.gate_distance > self.gate_eps
                marks += f"  gate {token.gate_distance:.4g} {'>' if kept_back else '<='} {self.gate_eps:.4g}"
                marks += "  kept back" * kept_back
            marks += "  replaced" * token.replaced
            inside = "<=" if token.within else ">"
            near = f"{token.distance:.4g} {inside} {token.radius:.4g}"
            lines.append(f"  {token.token!r:16} {near} of case {token.case_id!r}{marks}")
        return lines


@dataclass(frozen=True)
class ScoreAtToken:
    """What a hook decided by.

    Attributes:
        token: the token's text.
        score: its z-score, or the weighed one with ``scope_score: weighed``; NaN where there is none: in prompts too
            short, and everywhere with ``wohk``.
        acts: whether the edited weights were used here.
    """

    token: str
    score: float
    acts: bool


@dataclass(frozen=True)
class CoachHookLayer:
    """What a hook layer did.

    Attributes:
        layer: path of its projection.
        alpha: the score from which on it acts, give or take rounding; None with ``wohk``: there are no hooks.
        tokens: every token's score.
    """

    layer: str
    alpha: float | None
    tokens: list[ScoreAtToken]


@dataclass(frozen=True)
class Explanation:
    """Which edits a prompt met. Printed, it is a table.

    Attributes:
        prompt: what was asked.
        answer: what was said after it, teacher-forced.
        grace: of each layer that carries a codebook.
        coachhook: of each edited projection.
    """

    prompt: str
    answer: str | None
    grace: list[GraceLayer]
    coachhook: list[CoachHookLayer]

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name; a score that isn't there is NaN."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a table: a block for each layer, a line for each token."""
        lines = []
        for layer in self.grace:
            lines += layer.lines()
        for hook in self.coachhook:
            alpha = "in the weights, everywhere" if hook.alpha is None else f"alpha {hook.alpha:.4g}"
            lines.append(f"CoachHook {hook.layer}: {alpha}")
            lines += [f"  {token.token!r:16} {token.score:.4g}{'  acts' * token.acts}" for token in hook.tokens]
        return "\n".join(lines)


def _deferred_or(case_id: int | str | None) -> str:
    return "deferred to the model" if case_id is None else f"answered by case {case_id!r}"
