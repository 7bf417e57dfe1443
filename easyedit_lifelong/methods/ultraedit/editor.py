"""The editor of UltraEdit, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.encoded_requests import encode_request
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult, Outcome
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.methods.ultraedit.config import UltraEditHyperParams
from easyedit_lifelong.methods.ultraedit.update import UltraEditBatch, UltraEditUpdate, least_squares, value_changes
from easyedit_lifelong.methods.weight_updates.batch_editor import BatchEditor
from easyedit_lifelong.methods.weight_updates.check import check_block_projections, check_same_targets
from easyedit_lifelong.methods.weight_updates.normaliser import Normaliser
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.answer_passes import AnswerPasses, OutputGradients
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.pair_encoders import encoder_for
from easyedit_lifelong.models.quantisation import update_dtype
from easyedit_lifelong.models.wrappers import model_to_edit

Shape = tuple[int, int]
"""The numbers of inputs and outputs of a projection. Projections of one shape share a normaliser."""


@dataclass(frozen=True)
class EncodedRequest:
    """A request with the token ids of its prompt and target."""

    request: EditRequest
    pair: EncodedPair


class UltraEditEditor(BatchEditor[UltraEditBatch]):
    """Edits a model's weights with UltraEdit (arXiv 2505.14679). Get it with :meth:`on`.

    A batch needs one forward and backward pass. The updates of all layers are computed from the same weights. The
    normalisers are saved with the batches, so a rollback also restores them.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the hyperparameters.

    Raises:
        ModelError: the model lacks a layer that the hyperparameters name.
    """

    hparams_class = UltraEditHyperParams
    batch_class = UltraEditBatch

    def __init__(self, model: Any, tokenizer: Any, hparams: UltraEditHyperParams) -> None:
        check_block_projections(model, hparams, "inner_params")
        super().__init__(model_to_edit(model), tokenizer, hparams)

    def encode(self, request: EditRequest) -> EncodedRequest:
        """Encode the prompt and the target of a request."""
        encode = encoder_for(self.model, self.tokenizer, eos=self.hparams.eos)
        return EncodedRequest(request, encode_request(encode, request, context_length(self.model)))

    def check_batch(self, items: Sequence[EncodedRequest]) -> None:
        """Check that no two requests of a batch have the same prompt and different targets."""
        check_same_targets((item.pair.prompt, item.request) for item in items)

    def edit_batch(self, items: Sequence[EncodedRequest]) -> tuple[UltraEditBatch, list[Outcome]]:
        """Apply one batch; return it, and the outcome of each request."""
        passes = AnswerPasses(self._runner, [item.pair for item in items], self.hparams.batch_size_once)
        gradients, before = passes.gradients(self._layers.modules)
        updates = self._updates({path: _in_float64(part) for path, part in gradients.items()})
        for path, update in updates.items():
            self._layers.apply(path, update)
        after = passes.losses()
        outcomes = [
            Outcome(1, now.loss, now.correct, {"loss_before": then.loss})
            for then, now in zip(before, after, strict=True)
        ]
        return UltraEditBatch(tuple(EditRecord.of(item.request) for item in items), updates), outcomes

    def normalisers(self) -> dict[Shape, Normaliser]:
        """Return the normaliser of each shape after the batches in the history; it is empty before the first one."""
        shapes = {path: projection_shape(module) for path, module in self._layers.modules.items()}
        counts = dict.fromkeys(shapes.values(), 0)
        for batch in self.state.batches:
            for path, update in batch.layers.items():
                counts[shapes[path]] += update.adjusted.shape[1]
        if not self.state.batches:
            return {}
        saved = {
            shapes[path]: update.normaliser.unbind(dim=1)
            for path, update in self.state.batches[-1].layers.items()
            if update.normaliser.shape[1]
        }
        return {shape: Normaliser(counts[shape], mean, squares) for shape, (mean, squares) in saved.items()}

    def _check_loadable(self, batch: UltraEditBatch) -> None:
        """Check that the updates of a saved batch are for the layers of this editor, and have the normalisers."""
        super()._check_loadable(batch)
        shapes: set[Shape] = set()
        for path, update in batch.layers.items():
            columns = 0 if update.shape in shapes else 2
            shapes.add(update.shape)
            if update.normaliser.shape != (sum(update.shape), columns):
                raise EditError(f"the update of {path} has no normaliser of {sum(update.shape)} x {columns} numbers")

    def _updates(self, gradients: Mapping[str, OutputGradients]) -> dict[str, UltraEditUpdate]:
        """Return the update of each layer. The normalisers are updated with all layers before they are used.

        Args:
            gradients: the inputs and output gradients of each layer, by path, in float64.

        Raises:
            EditError: inputs or gradients are not finite.
        """
        normalisers = self.normalisers()
        first_of_shape: dict[Shape, str] = {}
        for path, part in gradients.items():
            features = torch.cat([part.inputs, part.gradients], dim=1)
            if not torch.isfinite(features).all():
                raise EditError(f"the gradients at {path} hold NaN or infinite values")
            shape = projection_shape(self._layers.modules[path])
            first_of_shape.setdefault(shape, path)
            old = normalisers.get(shape) or Normaliser.empty(features.shape[1])
            normalisers[shape] = old.updated(features)
        updates: dict[str, UltraEditUpdate] = {}
        for path, part in gradients.items():
            shape = projection_shape(self._layers.modules[path])
            normaliser = normalisers[shape]
            dtype = update_dtype(self._layers.modules[path])
            # The authors add the precision of the numbers to the standard deviation.
            epsilon = torch.finfo(dtype).eps
            values = value_changes(part.inputs, part.gradients, normaliser, self.hparams.lr, epsilon)
            columns = [normaliser.mean, normaliser.squares] if first_of_shape[shape] == path else []
            updates[path] = UltraEditUpdate(
                adjusted=least_squares(part.inputs).to(dtype).contiguous(),
                residual=values.t().to(dtype).contiguous(),
                normaliser=_columns(columns, sum(shape)),
            )
        return updates


def _in_float64(part: OutputGradients) -> OutputGradients:
    """Return inputs and gradients in float64 on the CPU."""
    return OutputGradients(part.inputs.to("cpu", torch.float64), part.gradients.to("cpu", torch.float64))


def _columns(columns: Sequence[Tensor], rows: int) -> Tensor:
    """Return columns as one tensor, shape ``(rows, columns)``."""
    return torch.stack(list(columns), dim=1) if columns else torch.empty(rows, 0, dtype=torch.float64)


def apply_ultraedit_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: UltraEditHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with UltraEdit, in batches of ``hparams.batch_size``. Requests need no subject.

    Otherwise, arguments, result and errors are those of
    :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`.
    """
    return apply_requests(
        UltraEditEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
