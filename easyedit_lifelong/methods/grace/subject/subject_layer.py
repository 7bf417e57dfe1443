"""Adaptors for edits that are found by their subjects (``query_token: subject_last``), wherever these stand.

Every real token of a pass is looked up. What answers is one of two:

- without ``answer_layer``, the token that was found: its value takes the place of what the same layer returns there,
  in a prompt as well as in what is being said, and nobody has to know where the prompt ends;
- with it, the prompt's last token, at that later layer. There is a second look, by a second key: is this prompt about
  the edit's relation, too (``gate_eps``)? That shows late in a model, when the subject's token has long been left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.layer import CHILD, GraceAdaptor
from easyedit_lifelong.methods.grace.subject.whitening import whitened
from easyedit_lifelong.methods.shared.editors import in_internal_pass
from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.windows import Window, repeated

_COUNTED = -1
"""What a generation remembers under which keys have answered which of its prompts."""


class Reached(NamedTuple):
    """The keys within whose radius some token of a prompt is.

    Attributes:
        keys: their indices, shape ``(keys,)``.
        nearness: how near the nearest token comes, in radii.
        column: of that token, in the whole prompt; of equally near ones the last.
    """

    keys: Tensor
    nearness: Tensor
    column: Tensor


Found = dict[int, Reached]
"""What each row reaches."""


@dataclass(frozen=True)
class Noted:
    """What the layer that finds tells the one that answers about a pass.

    Attributes:
        found: the edits whose subjects are in each row's prompt.
        queries: what every token asked with, ``(batch, tokens, key_size)``.
        looked_up: which tokens were looked up, ``(batch, tokens)``.
        fired: the key that each token is nearest to, in radii, and within; -1 for none, ``(batch, tokens)``.
    """

    found: Found
    queries: Tensor
    looked_up: Tensor
    fired: Tensor


class SubjectAdaptor(GraceAdaptor):
    """Replaces what a layer returns at a subject's last token, where the codebook knows the subject.

    Args:
        model: the model that the layer belongs to.
        layer: the layer whose inputs are looked up.

    Attributes:
        whitening: of queries; see :func:`.whitening_of`. None for none.

    Raises:
        ModelError: the layer is outside of what reads tokens.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        super().__init__(model, layer, "replace_last", "subject_last")
        self.whitening: Tensor | None = None

    def queries(self, inputs: Tensor) -> Tensor:
        """Return inputs of the layer as the codebook is asked with them."""
        if self.whitening is not None and self.whitening.device != inputs.device:
            self.whitening = self.whitening.to(inputs.device)
        return whitened(inputs, self.whitening)

    def _with_codebook(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        assert self.codebook is not None
        real = _real(inputs, window)
        queries = self.queries(inputs)
        fired = torch.full(real.shape, -1, device=inputs.device)
        fired[real] = self.codebook.lookup(queries[real])
        replaced = fired >= 0
        if self._record is not None:
            self._record(queries, real, fired, replaced)
        if not replaced.any():
            return None
        self._count(replaced, fired, window)
        values = self.codebook.values[fired.clamp(min=0)].to(output.dtype)
        return torch.where(replaced.unsqueeze(-1), values, output)

    def _count(self, replaced: Tensor, keys: Tensor, window: Window | None) -> None:
        """Count every key that answers in a row once, and in a generation once for each of its prompts.

        Args:
            replaced: at which tokens some key answers, ``(batch, tokens)``.
            keys: which one, same shape.
            window: the pass under way.
        """
        if self.codebook is None or in_internal_pass(self.model):
            return
        rows = replaced.nonzero()[:, 0].tolist()
        answers = set(zip(rows, keys[replaced].tolist(), strict=True))
        if window is not None and window.generation is not None:
            # Its passes read prompts again where there is no cache, and rows change places where there are beams.
            prompts = len(window.generation.ends)
            counted = window.generation.decisions.setdefault(_COUNTED, {}).setdefault(id(self), set())
            answers = {(row * prompts // len(replaced), key) for row, key in answers} - counted
            counted |= answers
        self.codebook.hits.update(key for _, key in answers)


class LateAdaptor(SubjectAdaptor):
    """Finds subjects at one layer, and answers at a prompt's last token at a later one.

    Args:
        model: the model that the layers belong to.
        finding: the layer whose inputs are looked up.
        answering: the layer whose output is replaced.

    Attributes:
        layer: the one that answers; trials are at this one.

    Raises:
        ModelError: a layer is outside of what reads tokens.
    """

    spanning = True

    def __init__(self, model: nn.Module, finding: nn.Module, answering: nn.Module) -> None:
        super().__init__(model, answering)
        self._finding = self._keeping = Attachment(model, finding, CHILD, self._find, spanning=True)

    def detach(self) -> None:
        """Leave the model as it was before the adaptor came; at the second call, do nothing."""
        super().detach()
        self._finding.detach()

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        """Note which edits' subjects are in each row's prompt; the layer returns what it returns."""
        window = self._finding.window
        if self._trial is not None or self.codebook is None or window is None or window.behind:
            return
        inputs = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            raise EditError("query_token: subject_last needs a layer that gets (batch, tokens, width)")
        real = _real(inputs, window) & _in_prompts(window, inputs)
        queries = self.queries(inputs)
        reached = torch.zeros_like(real)
        reached[real] = self.codebook.reached(queries[real])
        fired = torch.full(real.shape, -1, device=inputs.device)
        memory: dict[int, Any] = {} if window.generation is None else window.generation.decisions
        found: Found = dict(memory.get(id(self), {})) if window.past else {}  # of an earlier part of the prompts
        for row in reached.any(dim=1).nonzero().flatten().tolist():
            columns = reached[row].nonzero().flatten()
            nearness = self.codebook.nearness(queries[row, columns])
            fired[row, columns] = nearness.argmin(dim=1)
            now = _reached(nearness, columns + window.past)
            found[row] = _joined(found[row], now) if row in found else now
        memory[id(self)] = found
        # With the pass, not with the adaptor: what another pass has found says nothing about this one's rows.
        window.notes[id(self)] = Noted(found, queries, real, fired)

    def _with_codebook(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        assert self.codebook is not None
        noted: Noted | None = window.notes.get(id(self)) if window is not None else None
        if window is None or noted is None:
            return None
        replaced = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        chosen = torch.full(inputs.shape[:2], -1, device=inputs.device)
        ends = window.ends.tolist()
        for row, found in noted.found.items():
            key = self._answering(inputs[row, ends[row]], found) if ends[row] >= 0 else -1
            if key >= 0:
                replaced[row, ends[row]], chosen[row, ends[row]] = True, key
        if self._record is not None:
            fired = torch.where(replaced, chosen, noted.fired.to(inputs.device))
            self._record(noted.queries, noted.looked_up, fired, replaced)
        answered = chosen[replaced]
        if not len(answered):
            return None
        self._count(replaced, chosen, window)
        whole = output.clone()
        whole[replaced] = self.codebook.values[answered.to(self.codebook.values.device)].to(output)
        return whole

    def _answering(self, query: Tensor, found: Reached) -> int:
        """Return which of the keys found answers a prompt's last token; -1 if none does.

        Of several, that which both looks together come nearest to, each in units of its radius. Of equals, that which
        was found last: where one subject begins another, the longer one.
        """
        assert self.codebook is not None
        together, limit = found.nearness, self.codebook.gate_eps
        if limit is not None:
            apart = self.codebook.gate_distances(query.to(self.codebook.gates.device), found.keys)
            together = (together + apart / limit).masked_fill(apart > limit, float("inf"))
        best = together.min()
        last = int(torch.where(together == best, found.column, -1).argmax())
        return int(found.keys[last]) if torch.isfinite(best) else -1


def _real(inputs: Tensor, window: Window | None) -> Tensor:
    """Return which tokens hold text, ``(batch, tokens)``."""
    if window is None:  # nobody says: all of them
        return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    return window.real.to(inputs.device)


def _in_prompts(window: Window, inputs: Tensor) -> Tensor:
    """Return which columns of a pass are its rows' prompts, ``(batch, tokens)``."""
    ends = window.ends
    if window.generation is not None:  # a pass over a part of the prompts holds no end, but what comes before it
        ends = repeated(window.generation.ends.to(ends.device), len(ends)) - window.past
    return torch.arange(inputs.shape[1], device=inputs.device) <= ends.to(inputs.device).unsqueeze(1)


def _reached(nearness: Tensor, columns: Tensor) -> Reached:
    """Return the keys that some tokens reach.

    Args:
        nearness: of every token to every key, ``(tokens, n)``.
        columns: of the tokens, in their order.
    """
    nearest = nearness.amin(dim=0)
    keys = (nearest <= 1).nonzero().flatten()
    ties = nearness[:, keys] == nearest[keys]
    return Reached(keys, nearest[keys], torch.where(ties, columns.unsqueeze(1), -1).amax(dim=0))


def _joined(one: Reached, other: Reached) -> Reached:
    """Return the keys that a prompt reaches in either of two parts, the later one last, as near as it comes."""
    keys = torch.cat([one.keys, other.keys]).unique()
    size = int(keys[-1]) + 1
    nearness, columns = one.nearness.new_full((2, size), float("inf")), one.column.new_full((2, size), -1)
    for part, (at, near, column) in enumerate((one, other)):
        nearness[part, at], columns[part, at] = near, column
    whole = _reached(nearness, torch.arange(2, device=keys.device))
    return whole._replace(column=columns[whole.column, whole.keys])
