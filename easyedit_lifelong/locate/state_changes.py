"""Where edits change a model: the states of a prompt in the edited model, compared with those in the unedited model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.locate.restorations import KINDS, Kind
from easyedit_lifelong.locate.sites import Sites
from easyedit_lifelong.models.capture import recording_output
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.partial_pass import hidden_of
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.runner import Runner


@dataclass(frozen=True)
class PromptStates:
    """The states of a model on one prompt.

    Attributes:
        prompt: the prompt.
        tokens: text of each of its tokens.
        states: outputs of blocks, MLPs and attention by kind, shape ``(tokens, layers, width)``, in float32 or wider,
            on the CPU.
        probabilities: probabilities of the next token, shape ``(vocabulary,)``.
    """

    prompt: str
    tokens: list[str]
    states: Mapping[Kind, Tensor]
    probabilities: Tensor


@dataclass(frozen=True)
class StateChanges:
    """How much edits change the states of a prompt.

    Attributes:
        prompt: the prompt.
        tokens: text of each of its tokens.
        changes: ‖h_edited - h_unedited‖ / ‖h_unedited‖ at each token and layer, by kind, shape ``(tokens, layers)``.
        next_token: total variation distance between the edited and the unedited model's next-token predictions: 0 if
            they are equal, 1 if they share nothing.
    """

    prompt: str
    tokens: list[str]
    changes: Mapping[Kind, Tensor]
    next_token: float


@torch.no_grad()
def record_states(model: Any, tokenizer: Any, prompt: str, kinds: Sequence[Kind] = KINDS) -> PromptStates:
    """Run a model on a prompt, and return its states.

    Args:
        model: a causal language model, edited or not.
        tokenizer: its tokenizer.
        prompt: the prompt.
        kinds: which states to return.

    Raises:
        DataError: the prompt has no tokens.
        ModelError: the model's blocks, MLPs or attention aren't found.
    """
    runner = Runner(model, tokenizer)
    sites = Sites(runner.model)
    row = encode_text(tokenizer, prompt)
    if not row:
        raise DataError(f"the prompt {prompt!r} has no tokens")
    ids = torch.tensor([row], device=runner.device)
    recorded: dict[Kind, list[Tensor]] = {kind: [] for kind in kinds}
    with evaluating(runner.model), contextlib.ExitStack() as stack:
        for kind, states in recorded.items():
            for module in sites.blocks if kind == "state" else sites.modules(kind):
                stack.enter_context(recording_output(module, functools.partial(_append, states, len(row))))
        logits = runner.call(ids, torch.ones_like(ids), [len(row)], keep=1)[0, -1]
    states_by_kind = {kind: torch.stack(states, dim=1) for kind, states in recorded.items()}
    tokens = [str(tokenizer.decode([token])) for token in row]
    return PromptStates(prompt, tokens, states_by_kind, at_least_float32(logits).softmax(dim=0).cpu())


def compare_states(unedited: PromptStates, edited: PromptStates) -> StateChanges:
    """Return how much the states of a prompt differ between the unedited and the edited model."""
    changes = {
        kind: (edited.states[kind] - states).norm(dim=-1) / states.norm(dim=-1).clamp(min=1e-12)
        for kind, states in unedited.states.items()
    }
    distance = float((edited.probabilities - unedited.probabilities).abs().sum()) / 2
    return StateChanges(unedited.prompt, unedited.tokens, changes, distance)


def _append(states: list[Tensor], n_tokens: int, output: Any) -> None:
    states.append(at_least_float32(hidden_of(output).view(n_tokens, -1)).cpu())
