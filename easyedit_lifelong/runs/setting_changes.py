"""The settings in which a stored configuration differs from the present one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

# Each name ends with a dot, so that "text." is not the beginning of another name.
NOT_COMPARED = (
    "recorded.started.",
    "data.",
    "retention.",
    "text.",
    "capability.",
    "lm_eval.path.",
    "trackers.",
    "hparams.device.",
    "hparams.model_parallel.",
    "hparams.model_name.",
    "hparams.mom2_engine.",
)
"""Prefixes of the settings that may differ when a run is resumed: the device, the trackers, the engine that computes
second moments, the location of the data (a digest of the requests and held-out facts is compared instead), and the
hyperparameter ``model_name`` (the absolute path in ``model`` and the fingerprint of the weights are compared
instead)."""

_MISSING = "nothing"
"""Stands for the value of a setting that only one of the configurations has."""

_MEANINGS = {
    "requests_sha256": "a digest of requests, held-out facts, text and questions: the data or their "
    "format file changed",
    "weights": "a fingerprint: the model's weights changed",
}
"""What users can't see from the name of a setting, by its last part."""


def setting_changes(
    written: Mapping[str, Any], present: Mapping[str, Any], not_compared: tuple[str, ...] = ()
) -> list[str]:
    """Return a description of each setting that differs between two configurations.

    Args:
        written: the configuration that was read from a file.
        present: the present configuration.
        not_compared: prefixes of the names of settings that may differ. A name has the keys of all levels, each with a
            dot after it.
    """
    stored = _flattened(written)
    current = _flattened(yaml.safe_load(yaml.safe_dump(dict(present))))  # with the types of values in a YAML file
    changes = []
    for name in dict.fromkeys([*stored, *current]):
        before, now = stored.get(name, _MISSING), current.get(name, _MISSING)
        if before != now and not f"{name}.".startswith(not_compared):
            meaning = _MEANINGS.get(name.rpartition(".")[2])
            changes.append(f"{name} was {before!r}, is {now!r}{f' ({meaning})' if meaning else ''}")
    return changes


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values in one mapping; its keys are the keys of all levels, joined with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
