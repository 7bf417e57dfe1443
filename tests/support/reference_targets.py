"""A plain optimisation of target vectors: one request at a time, full rows, no cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.facts import Fact, Row
from easyedit_lifelong.models.modules import find_module


class ReferenceOptimisation:
    """MEMIT's compute_z as its paper and code describe it: full rows, no cache, no batch.

    Args:
        model: the model.
        hparams: the hyperparameters.
        fact: the fact.
        layer: number of the last edited block.
        at_projection: change the output of the block's MLP output projection, as ROME does, instead of the block's.
    """

    def __init__(
        self, model: Any, hparams: LocateEditHyperParams, fact: Fact, layer: int, *, at_projection: bool = False
    ) -> None:
        self.model, self.hparams, self.fact = model, hparams, fact
        template = hparams.rewrite_module_tmp if at_projection else hparams.layer_module_tmp
        self.module = find_module(model, template.format(layer))[1]
        number = hparams.v_loss_layer
        last = model.config.num_hidden_layers - 1
        self.loss_layer = None if number is None or max(number, layer) >= last else max(number, layer)
        self.unedited_value = self._value(fact.contexts[0])

    def _value(self, row: Row) -> Tensor:
        kept: list[Tensor] = []
        handle = self.module.register_forward_hook(
            lambda _, __, out: kept.append(out if isinstance(out, Tensor) else out[0])
        )
        with torch.no_grad():
            self.model(torch.tensor([row.prompt]))
        handle.remove()
        return kept[0][0, row.lookup]

    def _run(self, row: Row, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities at every token of a row: those of the loss, and those of the divergence."""

        def change(_: Any, __: Any, out: Any) -> Any:
            hidden = (out if isinstance(out, Tensor) else out[0]).clone()
            hidden[0, row.lookup] += delta
            return hidden if isinstance(out, Tensor) else (hidden, *out[1:])

        handles, kept = [self.module.register_forward_hook(change)], []
        if self.loss_layer is not None:  # registered second: if it is the same block, it reads the changed output
            loss_block = find_module(self.model, self.hparams.layer_module_tmp.format(self.loss_layer))[1]
            handles.append(
                loss_block.register_forward_hook(
                    lambda _, __, out: kept.append(out if isinstance(out, Tensor) else out[0])
                )
            )
        loss_logits = logits = self.model(torch.tensor([row.prompt + row.target[:-1]])).logits
        for handle in handles:
            handle.remove()
        if kept:
            norm = find_module(self.model, self.hparams.ln_f_module)[1]
            loss_logits = self.model.get_output_embeddings()(norm(kept[0]))
        return loss_logits[0].log_softmax(-1), logits[0].log_softmax(-1)

    def loss(self, delta: Tensor, before: Tensor) -> Tensor:
        losses = []
        for row in (*self.fact.contexts, *self.fact.mentions):
            log_probabilities, _ = self._run(row, delta)
            at_target = log_probabilities[len(row.prompt) - 1 :]
            losses.append(-sum(at_target[i, token] for i, token in enumerate(row.target)) / len(row.target))
        total = sum(losses) / len(losses)
        if self.fact.essence is not None:
            _, now = self._run(self.fact.essence, delta)
            total = total + self.hparams.kl_factor * F.kl_div(
                before, now[self.fact.essence.lookup], log_target=True, reduction="sum"
            )
        return total + self.hparams.v_weight_decay * delta.norm() / self.unedited_value.norm() ** 2

    def optimise(self) -> tuple[Tensor, int, float]:
        delta = torch.zeros_like(self.unedited_value, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=self.hparams.v_lr)
        before = torch.empty(0)
        if self.fact.essence is not None:
            before = self._run(self.fact.essence, delta)[1][self.fact.essence.lookup].detach()
        steps, loss = 0, torch.empty(())
        for step in range(self.hparams.v_num_grad_steps):
            optimizer.zero_grad()
            loss = self.loss(delta, before)
            if loss < self.hparams.v_stop_loss or step == self.hparams.v_num_grad_steps - 1:
                break
            loss.backward()
            optimizer.step()
            steps += 1
            limit = self.hparams.clamp_norm_factor * self.unedited_value.norm()
            if delta.norm() > limit:
                with torch.no_grad():
                    delta.mul_(limit / delta.norm())
        return (self.unedited_value + delta).detach(), steps, loss.item()
