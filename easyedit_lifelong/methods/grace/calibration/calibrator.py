"""GRACE's implementation of the calibrator port, which the ``calibrate`` command uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.calibrator import CalibrationOutcome, ShowStep
from easyedit_lifelong.methods.grace.calibration.candidate_layers import Layer, parse_layers
from easyedit_lifelong.methods.grace.calibration.outcome import outcome_of
from easyedit_lifelong.methods.grace.calibration.study import DEFAULT_EDITS, Settings, Steps, calibrate
from easyedit_lifelong.methods.grace.config import GraceHyperParams


class GraceCalibrator:
    """Calibrates GRACE by subjects; see :class:`~easyedit_lifelong.methods.calibrator.Calibrator`."""

    name = "GRACE by subjects"
    accepts = (
        "GRACE by subjects (query_token: subject_last). Begin with GRACE/smollm2-135m-subject, or a copy of it, and "
        "--model."
    )
    comments: Mapping[str, str] = {
        "inner_params": "calibrated: the key layer; the inputs of this layer are compared with the keys",
        "dist_fn": "calibrated",
        "whiten": "calibrated",
        "eps": "calibrated: auto (a radius for each key, from its neighbourhood), or one radius for all keys",
        "false_fire_rate": "as given to calibrate",
        "answer_layer": "calibrated: an edit replaces the output of this layer at the prompt's last token",
        "named_eps": "calibrated: least radius where the text's words name the subject; null: words are not compared",
        "gate_eps": "calibrated: largest cosine distance to the edit's own prompt at which it answers; null: no limit",
    }

    def mismatch(self, hparams: GraceHyperParams) -> str | None:
        """Return the ``query_token`` of the hyperparameters if it is not ``subject_last``; else None."""
        return None if hparams.by_subject else f"query_token: {hparams.query_token}"

    def settings(self, hparams: GraceHyperParams, options: Mapping[str, Any]) -> Settings:
        """Return the settings of a calibration.

        Args:
            hparams: the hyperparameters to begin with.
            options: the options of the ``calibrate`` command, by name.

        Raises:
            ModelError: an option is no list of layers.
        """
        return Settings(
            layers=_given_layers(options["layers"], "--layers"),
            answer_layers=_given_layers(options["answer_layers"], "--answer-layers"),
            false_fire_rate=hparams.false_fire_rate,
            generality=options["generality"],
            edits=options["edits"] or DEFAULT_EDITS,
            tries=options["tries"],
        )

    def steps(self, values: Mapping[str, Any] | None) -> Steps:
        """Return the finished steps that were saved as these values; with None, no step is finished."""
        return Steps() if values is None else Steps.from_dict(values)

    def run(
        self,
        model: Any,
        tok: Any,
        requests: Sequence[EditRequest],
        hparams: GraceHyperParams,
        settings: Settings,
        steps: Steps,
        save: Callable[[Steps], object],
        show: ShowStep,
    ) -> CalibrationOutcome:
        """Run the remaining steps and choose the hyperparameters; see :func:`calibrate`."""
        calibration = calibrate(model, tok, requests, hparams, settings, steps=steps, save=save, show=show)
        return outcome_of(calibration)


def _given_layers(text: str | None, option: str) -> tuple[Layer, ...] | None:
    """Return the layers that a command-line option names; None without the option."""
    return None if text is None else tuple(parse_layers(text, option))
