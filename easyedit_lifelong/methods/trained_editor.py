"""The port of methods that are trained once for a model before they edit it: the command ``train`` uses it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from easyedit_lifelong.data.request import EditRequest


@dataclass(frozen=True)
class TrainingSchedule:
    """How long a method is trained, and when the result is validated.

    A *training edit* is an update of the model that the method computes for one batch of requests.

    Attributes:
        edits: number of training edits; None: no limit.
        requests_per_edit: number of requests in a training edit.
        edits_per_step: number of training edits in an optimiser step.
        edits_per_line: number of training edits that a line of the training curve averages.
        edits_per_validation: number of training edits between two validations.
        max_held_out: largest number of records that are held out for the validation.
        patience: stop after this many training edits without a better validation.
        seed: seed of the order of the records, and of the choice of paraphrases and locality prompts.
    """

    edits: int | None
    requests_per_edit: int
    edits_per_step: int
    edits_per_line: int
    edits_per_validation: int
    max_held_out: int
    patience: int
    seed: int


class Training(Protocol):
    """A method that is being trained on one model."""

    def encode(self, request: EditRequest) -> Any:
        """Return what the training needs of a request.

        Raises:
            DataError: the request cannot be used.
        """

    def train_step(self, batches: Sequence[Sequence[Any]], choices: random.Random) -> Mapping[str, float]:
        """Make one optimiser step.

        Args:
            batches: the encoded requests of each training edit.
            choices: makes all random choices.

        Returns:
            Values for the training curve, by name; ``loss`` is one of them.

        Raises:
            EditError: a value is not finite.
        """

    def validate(self, batches: Sequence[Sequence[Any]], choices: random.Random) -> Mapping[str, float]:
        """Return values for the training curve over held-out records, without training on them.

        The network with the smallest ``loss`` is kept.
        """

    def artefact(self) -> dict[str, Tensor]:
        """Return what editing needs, as tensors by name."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next optimiser steps depend on, as tensors by name."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` returned.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor has another shape.
        """


class TrainedEditor(Protocol):
    """Trains a method for a model. Editing reads the trained artefact from a folder.

    ``easyedit-lifelong train`` uses this port. :func:`~easyedit_lifelong.methods.artefacts.read_artefact` reads the
    folder that it writes.
    """

    def schedule(self, hparams: Any) -> TrainingSchedule:
        """Return the schedule that hyperparameters set."""

    def start(self, model: Any, tokenizer: Any, hparams: Any) -> Training:
        """Return the method as it is before its first step.

        Args:
            model: the model, without edits. Its weights must stay as they are.
            tokenizer: its tokenizer.
            hparams: the hyperparameters.

        Raises:
            ModelError: the method cannot edit the model with these hyperparameters.
        """
