"""The port with which a network of a method is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams
from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.training import HypernetworkTraining
from easyedit_lifelong.methods.trained_editor import TrainingSchedule
from easyedit_lifelong.methods.weight_updates.check import check_block_projections
from easyedit_lifelong.models.wrappers import model_to_edit


@dataclass(frozen=True)
class HypernetworkTrainer:
    """Implements :class:`~easyedit_lifelong.methods.trained_editor.TrainedEditor` for a class of networks.

    Attributes:
        network_class: the class of the network.
        training_class: the class of its training.
    """

    network_class: type[Hypernetwork]
    training_class: type[HypernetworkTraining] = HypernetworkTraining

    def schedule(self, hparams: HypernetworkHyperParams) -> TrainingSchedule:
        """Return the schedule that hyperparameters set."""
        return TrainingSchedule(
            edits=hparams.max_iters,
            requests_per_edit=hparams.batch_size,
            edits_per_step=hparams.accumulate_bs,
            edits_per_line=hparams.log_interval,
            edits_per_validation=hparams.val_interval,
            max_held_out=hparams.val_steps,
            patience=hparams.early_stop_patience,
            seed=hparams.seed,
        )

    def start(self, model: Any, tokenizer: Any, hparams: HypernetworkHyperParams) -> HypernetworkTraining:
        """Return an untrained network; see :class:`HypernetworkTraining`.

        Raises:
            ModelError: the model lacks a layer that the hyperparameters name.
        """
        check_block_projections(model, hparams, "inner_params")
        return self.training_class(model_to_edit(model), tokenizer, hparams, self.network_class)
