"""The GRACE editor of a layer: edits enter its codebook one by one (arXiv 2211.11031)."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError, ModelError
from easyedit_lifelong.methods.applying import check_continues
from easyedit_lifelong.methods.carried import carried, carry, drop
from easyedit_lifelong.methods.grace.codebook import Change, Codebook, Decision, Row, as_label, rounding_of
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.layer import GraceAdaptor
from easyedit_lifelong.methods.grace.replay import Replay
from easyedit_lifelong.methods.grace.training import initial_value, train_value
from easyedit_lifelong.methods.record import EditRecord
from easyedit_lifelong.methods.result import EditResult
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modes import dropping_out, evaluating
from easyedit_lifelong.models.modules import find_module

LOG = logging.getLogger(__name__)

SAME_SETTINGS = ("eps", "dist_fn", "eps_expand", "replacement")
"""Settings that all edits of a codebook must share."""


def check_layer(model: Any, tok: Any, hparams: GraceHyperParams) -> None:
    """Check that the model has the layer that the hyperparameters name.

    Raises:
        ModelError: it doesn't; the message says what it has.
    """
    _find_layer(model, hparams)


def _find_layer(model: Any, hparams: GraceHyperParams) -> tuple[str, torch.nn.Module]:
    try:
        return find_module(model, hparams.inner_params[0])
    except ModelError as error:
        where = f"{hparams.source}, inner_params: " if hparams.source else ""
        raise ModelError(f"{where}{error}") from None


class GraceEditor:
    """Enters edits into the codebook of one layer. Get it with :meth:`on`.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.

    Attributes:
        path: of the edited layer.
        changes: what each edit so far changed.
        records: what each of them was asked to do.
        saved: how far folders are up to date with the edits, by folder; kept by the store.
    """

    def __init__(self, model: Any, tokenizer: Any, hparams: GraceHyperParams) -> None:
        self.model, self.tokenizer, self.hparams = model, tokenizer, hparams
        self.path, layer = _find_layer(model, hparams)
        self.changes: list[Change] = []
        self.records: list[EditRecord] = []
        self.saved: dict[Path, Any] = {}
        self._anatomy = anatomy_of(model)
        self._block = self._anatomy.block_of(self.path) if self._anatomy else None
        self._in_last_block = self._anatomy is not None and self._block == len(self._anatomy.blocks) - 1
        self._shortcuts: bool | None = None
        self._checked_length = 0
        # Last, so that a model that can't be taken apart stays as it is.
        self.adaptor = GraceAdaptor(model, layer, hparams.replacement)

    @staticmethod
    def all_of(model: Any) -> dict[str, GraceEditor]:
        """Return the editors that are on a model, by path of their layer."""
        return carried(model, GraceHyperParams.ALG_NAME)

    @classmethod
    def on(cls, model: Any, tokenizer: Any, hparams: GraceHyperParams) -> GraceEditor:
        """Return the editor of the model's layer that the hyperparameters name.

        Raises:
            ModelError: there is no such layer.
            EditError: the layer carries edits made with other settings of the codebook.
        """
        path, _ = _find_layer(model, hparams)
        editor = cls.all_of(model).get(path)
        if editor is None:
            editor = cls(model, tokenizer, hparams)
            carry(model, hparams.ALG_NAME, path, editor)
            return editor
        check_continues(
            f"{path} carries GRACE edits", editor.hparams, hparams, SAME_SETTINGS,
            "Roll them back first, or name another layer in inner_params.",
        )  # fmt: skip
        editor.tokenizer, editor.hparams = tokenizer, hparams
        return editor

    @property
    def case_ids(self) -> list[int | str]:
        """Of the requests of the edits so far."""
        return [record.case_id for record in self.records]

    @property
    def codebook(self) -> Codebook | None:
        """The codebook, once there is an edit."""
        return self.adaptor.codebook

    def edit(self, requests: Sequence[EditRequest]) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests in order, all or none.

        Returns:
            What was done per request, and what undoes just these edits (once no later one is left).

        Raises:
            DataError: a request can't be used.
            EditError: an edit failed.
        """
        if not self.adaptor.attached:
            raise EditError("these edits have been rolled back for good; get the layer's editor anew")
        mark, found_out = len(self.changes), self.found_out
        try:
            pairs = [self._encode(request) for request in requests]
            with evaluating(self.model):
                results = [self._edit_one(request, pair) for request, pair in zip(requests, pairs, strict=True)]
        except BaseException:
            self._undo_to(mark)
            # What a failed edit found out isn't stored with any edit, so a resumed run wouldn't know it.
            self._shortcuts, self._checked_length = found_out
            raise
        # A partial of a method, not a closure: a deep copy of it undoes the copied model's edits.
        return results, functools.partial(self._take_back, mark, len(self.changes))

    @property
    def found_out(self) -> tuple[bool | None, int]:
        """What the edits so far have shown of the model: whether it can be replayed in part, up to which length."""
        return self._shortcuts, self._checked_length

    def restore(
        self, edits: Sequence[tuple[EditRecord, Sequence[Row]]], found_out: tuple[bool | None, int] = (None, 0)
    ) -> Callable[[], None]:
        """Do stored edits again, on an editor without any.

        Args:
            edits: each edit's record, and the rows that it changed as they were right after it.
            found_out: see :attr:`found_out`; without it, the next edit finds out again.

        Returns:
            What undoes them.

        Raises:
            EditError: there are edits already.
        """
        if self.changes:
            raise EditError("edits can be restored onto an unedited model only")
        try:
            for record, rows in edits:
                codebook = self.codebook
                if codebook is None:
                    key, value, _ = rows[0][2]
                    place = next(self.adaptor.layer.parameters(), next(self.model.parameters()))
                    codebook = self._new_codebook(len(key), len(value), place.device)
                    self.adaptor.install(codebook)
                self.changes.append(codebook.redo(rows))
                self.records.append(record)
        except BaseException:
            self._undo_to(0)
            raise
        self._shortcuts, self._checked_length = found_out
        return functools.partial(self._take_back, 0, len(self.changes))

    def _edit_one(self, request: EditRequest, pair: EncodedPair) -> EditResult:
        began = time.perf_counter()
        hparams, identity = self.hparams, f"{request.prompt}\x00{request.target_new}"
        copies = hparams.num_pert if hparams.val_train == "adv" else 1
        replay = self._replay([pair] * copies)
        query, output = replay.query[0], replay.output[0]
        if not torch.isfinite(query).all():
            raise EditError(f"{request.where}: the model's activations at {self.path} are NaN or infinite")
        codebook = self.codebook
        if codebook is None:
            codebook = self._new_codebook(len(query), len(output), output.device)
        label = as_label(pair.target)
        decision, match = codebook.decide(query, label)
        if decision in (Decision.EXPAND, Decision.COVERED):
            start = codebook.values[match.index]
        else:
            start = initial_value(hparams, output, identity)
        try:
            with dropping_out(self._above(), hparams.dropout, f"{hparams.seed}\x00dropout\x00{identity}"):
                trained = train_value(replay, start, hparams, identity)
        except EditError as error:
            raise EditError(f"{request.where}: {error}") from error
        if self.codebook is None:
            self.adaptor.install(codebook)
        decision, index, change = codebook.enter(query, label, trained.value)
        self.changes.append(change)
        self.records.append(EditRecord.of(request))
        return EditResult(
            case_id=request.case_id, steps=trained.steps, loss=trained.loss, learned=trained.learned,
            seconds=time.perf_counter() - began,
            detail={
                "decision": decision.value, "key": index, "radius": float(codebook.radii[index]),
                "nearest_distance": match.distance if match.index >= 0 else None, "n_keys": len(codebook),
            },
        )  # fmt: skip

    def _above(self) -> list[torch.nn.Module]:
        """Return the modules that compute with the value: its own block and those above it."""
        if self._anatomy is None or self._block is None:
            return [self.model]
        return list(self._anatomy.blocks)[self._block :]

    def _replay(self, pairs: list[EncodedPair]) -> Replay:
        def build(shortcuts: bool) -> Replay:
            anatomy = self._anatomy if shortcuts else None
            return Replay(self.model, self.adaptor, self.path, pairs, self.tokenizer.pad_token_id or 0, anatomy)

        length = max(len(pair.tokens) for pair in pairs)
        if self._shortcuts is False or (self._shortcuts and length <= self._checked_length):
            return build(bool(self._shortcuts))
        # Whether this architecture can be replayed in part shows at the first edit, and again when a
        # prompt is longer than any before: attention may treat distant tokens differently.
        try:
            replay = build(True)
            if not torch.isfinite(replay.query).all():
                return replay  # says nothing about the architecture; the edit is refused for it
            if not replay.is_partial or replay.agrees():
                self._shortcuts, self._checked_length = True, length
                return replay
        except (EditError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an unknown architecture can object in any way
            LOG.debug("replaying %s in part failed: %s: %s", type(self.model).__name__, type(error).__name__, error)
        self._shortcuts = False
        LOG.info("%s can't be replayed in part; values are trained on the whole model", type(self.model).__name__)
        return build(False)

    def _new_codebook(self, key_size: int, value_size: int, device: torch.device) -> Codebook:
        return Codebook(
            key_size, value_size, eps=self.hparams.eps, dist_fn=self.hparams.dist_fn,
            eps_expand=self.hparams.eps_expand, rounding=rounding_of(self.model.dtype), device=device,
        )  # fmt: skip

    def _encode(self, request: EditRequest) -> EncodedPair:
        pair = encode_pair(self.tokenizer, request.prompt, request.target_new)
        limit = context_length(self.model)
        if limit is not None and len(pair.tokens) > limit:
            raise DataError(
                f"{request.where}, field 'prompt': prompt and target have {len(pair.tokens)} tokens, the "
                f"model's context is {limit}. Shorten the prompt or leave the record out."
            )
        if self._in_last_block and len(pair.target) > 1 and self.hparams.replacement == "replace_last":
            LOG.warning(
                "%s: the target has %d tokens, but %s is in the last block: no later block carries its value to "
                "any token but the first. Name an earlier layer in inner_params.",
                request.where, len(pair.target), self.path,
            )  # fmt: skip
            self._in_last_block = False  # once is enough
        return pair

    def _take_back(self, begin: int, end: int) -> None:
        if len(self.changes) > end:
            raise EditError("later GRACE edits of this layer are still in place; roll those back first")
        self._undo_to(begin)

    def _undo_to(self, mark: int) -> None:
        del self.records[mark:]
        while len(self.changes) > mark:
            change = self.changes.pop()
            if self.codebook is not None:
                self.codebook.undo(change)
        if not self.changes:
            self.adaptor.detach()
            drop(self.model, self.hparams.ALG_NAME, self.path)
