"""The clean and the corrupted runs of a fact, with the states that restorations start from."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from easyedit_lifelong.locate.corruption import Corruption
from easyedit_lifelong.locate.known_facts import EncodedFact
from easyedit_lifelong.locate.restorations import Module
from easyedit_lifelong.locate.sites import Sites
from easyedit_lifelong.models.capture import recording_inputs, recording_output
from easyedit_lifelong.models.partial_pass import FrozenPrefix, hidden_of, replacing_positions
from easyedit_lifelong.models.runner import Runner


@dataclass(frozen=True)
class BaselineRuns:
    """The states of one clean run and of the corrupted runs of a prompt, which ran in one batch.

    Row 0 of all tensors is the clean run; the others are the corrupted runs.

    Attributes:
        fact: the fact.
        inputs: input of each block, shape ``(1 + samples, tokens, width)``.
        outputs: output of the MLP or the attention of each block, same shape, for the recorded modules.
        logits: logits at the last token, shape ``(1 + samples, vocabulary)``.
        cache: keys and values of the corrupted runs.
        block_output: what a block returns: the hidden states, or a tuple that begins with them.
    """

    fact: EncodedFact
    inputs: list[Tensor]
    outputs: dict[Module, list[Tensor]]
    logits: Tensor
    cache: FrozenPrefix
    block_output: Any

    @property
    def samples(self) -> int:
        """Number of corrupted runs."""
        return len(self.logits) - 1

    @property
    def n_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.fact.prompt)


@torch.no_grad()
def run_baselines(
    runner: Runner, sites: Sites, fact: EncodedFact, corruption: Corruption, modules: Sequence[Module]
) -> BaselineRuns:
    """Run a prompt as it is and with its subject corrupted; record the states.

    Args:
        runner: runs the model.
        sites: the model's sites.
        fact: the fact.
        corruption: corrupts the subject's embeddings.
        modules: the modules whose outputs are recorded.

    Raises:
        DataError: the subject can't be corrupted.
    """
    begin, end = fact.subject
    embed = runner.model.get_input_embeddings()
    clean_subject = embed(torch.tensor(fact.subject_ids, device=runner.device))
    corrupted = corruption(fact, clean_subject)
    samples = len(corrupted)
    ids = torch.tensor([fact.prompt] * (samples + 1), device=runner.device)
    rows = torch.arange(1, samples + 1, device=ids.device).repeat_interleave(end - begin)
    columns = torch.arange(begin, end, device=ids.device).repeat(samples)
    inputs: dict[str, Tensor] = {}
    outputs: dict[Module, list[Tensor]] = {kind: [] for kind in modules}
    cache = DynamicCache()  # without the model's configuration, so that it keeps every token, even with local attention
    with contextlib.ExitStack() as stack:
        stack.enter_context(replacing_positions(embed, rows, columns, corrupted.flatten(0, 1), ids.shape[1]))
        blocks = {str(index): block for index, block in enumerate(sites.blocks)}
        stack.enter_context(recording_inputs(blocks, inputs.__setitem__))
        block_outputs: list[Any] = []
        stack.enter_context(recording_output(sites.blocks[0], block_outputs.append))
        for kind, recorded in outputs.items():
            for module in sites.modules(kind):
                record = functools.partial(_append_hidden, recorded, ids.shape)
                stack.enter_context(recording_output(module, record))
        logits = runner.call(ids, torch.ones_like(ids), [ids.shape[1]] * len(ids), cache, keep=1)[:, -1]
    keys_and_values = FrozenPrefix(cache, ids.shape[1])
    keys_and_values.keep_rows(slice(1, None))
    return BaselineRuns(fact, [inputs[name] for name in blocks], outputs, logits, keys_and_values, block_outputs[0])


def _append_hidden(recorded: list[Tensor], shape: torch.Size, output: Any) -> None:
    """Append the hidden states of an output, shape ``(rows, tokens, width)``; some modules return flattened rows."""
    recorded.append(hidden_of(output).view(*shape, -1))
