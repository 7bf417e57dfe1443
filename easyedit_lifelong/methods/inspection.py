"""The port that explains an answer, and what methods say of saved edits: the data of ``explain`` and ``inspect``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ExplainedPass:
    """A forward pass of an edited model over one prompt, which is to be explained.

    Attributes:
        prompt: the prompt.
        answer: the teacher-forced text after the prompt; None if there is none.
        texts: the text of each token that the model reads.
        end: index of the prompt's last token.
        texts_at: ``texts_at(module)`` returns the text of each token that a module processes. For a module in the
            decoder of an encoder-decoder model, these differ from ``texts``.
    """

    prompt: str
    answer: str | None
    texts: Sequence[str]
    end: int
    texts_at: Callable[[nn.Module], Sequence[str]]


class LayerExplanation(Protocol):
    """What one edited layer did in a forward pass. Implementations are dataclasses."""

    def lines(self) -> list[str]:
        """Return the explanation as lines of text: the layer, then its tokens."""


Explain = Callable[[Any, ExplainedPass], AbstractContextManager[Callable[[], Sequence[LayerExplanation]]]]
"""``explain(model, explained_pass)`` returns a context manager, inside which the caller makes the forward pass. The
context manager yields a function, which the caller calls after the pass. The function returns an explanation for each
layer that the method edits, or an empty sequence if the model has no edits of the method."""


NEARLY = 1.25
"""The default largest nearness of pairs that :attr:`InspectedPart.near` lists: two keys nearly collide if their
distance is at most this multiple of the sum of their radii."""


@dataclass(frozen=True)
class InspectedPart:
    """A description of one editor's saved edits, made without a model.

    Attributes:
        method: the method's name.
        layers: paths of the edited layers.
        settings: the hyperparameters that determine which prompts an edit answers.
        edits: one entry for each edit, in order: the request's fields, ``time``, and fields that the method adds.
            CoachHook adds ``batch``. GRACE adds ``decision``, ``key`` (its number), ``replaced_by`` (the number,
            counted from 1, of the last edit with that key, if that is another edit), and fields that describe the key:
            ``radius``, ``hits``, ``neighbour`` (the number of the nearest key), and the ``distance`` and ``nearness``
            of that neighbour; ``further_keys`` is how many further keys the edit has.
        near: one entry for each pair of edits whose keys are near each other, the nearest pair first: ``keys`` and
            ``edits`` (their numbers), ``distance``, ``nearness`` (the distance, divided by the sum of both radii: the
            keys' spheres overlap below 1), ``same_target``.
        batches: one entry for each batch: ``edits`` (how many), and fields that the method adds.
        columns: further columns of the table of edits: from the heading to the name of the entry's field.
        batch_columns: further columns of the table of batches: from the heading to the name of the entry's field, which
            has a number for each layer.
    """

    method: str
    layers: list[str]
    settings: dict[str, Any]
    edits: list[dict[str, Any]]
    near: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)
    batch_columns: Mapping[str, str] = field(default_factory=dict)
