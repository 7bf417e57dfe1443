"""The methods of a comparison: their labels, and the experiment that each of them runs."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong import bridge
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.models.load import resolve_dtype
from easyedit_lifelong.models.packaged_models import DEFAULT_MODEL
from easyedit_lifelong.runs.experiment import Experiment
from easyedit_lifelong.runs.hyperparameter_files import (
    check_method_name,
    find_method,
    load_hparams,
    make_hparams,
    registered_name,
    replace_hparams,
    shipped_hparams,
)

REPORT, COMPARISON_FILE = "report", "compare.yaml"
"""The folder of the page that compares the runs, and the file with the settings of the comparison, which is an
experiment file. No method can have these labels."""

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_FILE_ENDINGS = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class ComparedMethod:
    """One method of a comparison.

    Attributes:
        hparams: the name of a method, whose shipped file for the model is used; the name or path of a hyperparameter
            file; or the hyperparameters themselves, as a mapping.
        label: its name in the comparison, which is also the name of its folder; None for the method's name.
    """

    hparams: str | Mapping[str, Any]
    label: str | None = None

    @classmethod
    def from_text(cls, text: str) -> ComparedMethod:
        """Return the method that a text ``[LABEL=]METHOD`` or ``[LABEL=]FILE`` describes."""
        label, equals, hparams = text.partition("=")
        return cls(hparams.strip(), label.strip()) if equals else cls(text.strip())


@dataclass(frozen=True)
class MethodComparison:
    """All settings of a comparison.

    Attributes:
        experiment: the settings that all runs share; its ``hparams`` are None.
        methods: the methods.
    """

    experiment: Experiment
    methods: Sequence[ComparedMethod]


def experiments_by_label(comparison: MethodComparison) -> dict[str, Experiment]:
    """Return the experiment of each method by its label, in order.

    The experiments differ in their hyperparameters only, and in the batch size of methods that edit one request at a
    time.

    Raises:
        HyperParameterError: a method's hyperparameters can't be used, a label is invalid or used twice, or the methods
            are for different models.
        PluginError: there is no such method.
    """
    shared = comparison.experiment
    setting = shared.setting("methods", "--methods")
    if not comparison.methods:
        raise HyperParameterError(f"{setting}: names no method")
    hparams = _hyperparameters(comparison, setting)
    labels = [
        method.label or values.alg_name.replace("/", "-")  # EasyEdit/ROME
        for method, values in zip(comparison.methods, hparams, strict=True)
    ]
    _check_labels(labels, setting)
    by_label = dict(zip(labels, hparams, strict=True))
    _check_same_model(by_label, setting)
    return {
        label: dataclasses.replace(shared, hparams=values, overrides={}, batch_size=_batch_size(shared, values))
        for label, values in by_label.items()
    }


def _hyperparameters(comparison: MethodComparison, setting: str) -> list[Any]:
    """Return the hyperparameters of each method, with the overrides of the shared experiment.

    A model's short name selects the shipped files. Such a file holds the model's full name, which then also replaces
    the model of the other methods.
    """
    shared = comparison.experiment
    model = shared.overrides.get("model_name")
    model_setting = shared.setting("model", "--model")
    found: list[Any] = []
    for method in comparison.methods:
        if isinstance(method.hparams, str):
            name = _method_name(method.hparams)
            file = method.hparams
            if name is not None:
                check_method_name(name, setting)
                advice = f"name it in {setting}: {name}=FILE"
                file = str(shipped_hparams(name, model or DEFAULT_MODEL, model_setting, advice))
            values = load_hparams(file, easyedits=True, method=name)
            if name is not None and model is not None and "/" not in model:
                model = values.model_name
        else:
            inline = {**method.hparams} if model is None else {**method.hparams, "model_name": model}
            values = make_hparams(inline, f"{setting}.{method.label}" if method.label else setting, easyedits=True)
        found.append(values)
    overrides = {**shared.overrides, "model_name": model}
    return [_with_overrides(values, overrides) for values in found]


def _with_overrides(hparams: Any, overrides: Mapping[str, Any]) -> Any:
    """Return hyperparameters with other values, those that the method has; EasyEdit's own methods have no seed."""
    fields = {item.name for item in dataclasses.fields(hparams)}
    replaced = {name: value for name, value in overrides.items() if name in fields and value is not None}
    options = {name: f"--{'model' if name == 'model_name' else name}" for name in replaced}
    return replace_hparams(hparams, replaced, options) if replaced else hparams


def _method_name(text: str) -> str | None:
    """Return the name of a method, without regard to case; None if the text names a file."""
    if text.count("/") == 1 and text == bridge.easyedits_full_name(text):
        return text
    if "/" in text or text.endswith(_FILE_ENDINGS) or Path(text).is_file():
        return None
    return registered_name(text)


def _check_labels(labels: Sequence[str], setting: str) -> None:
    """Raise a HyperParameterError if a label can't be the name of a folder, or is used twice."""
    for label in labels:
        if not LABEL.fullmatch(label):
            raise HyperParameterError(
                f"{setting}: {label!r} can't be a label, which names a folder: use letters, digits and . _ + -"
            )
        if label.casefold() in (REPORT, COMPARISON_FILE):
            raise HyperParameterError(f"{setting}: {label!r} can't be a label: this is where the results are written")
    counts = Counter(label.casefold() for label in labels)
    for label in labels:
        if counts[label.casefold()] > 1:
            raise HyperParameterError(f"{setting}: two methods are called {label!r}. Give them labels: LABEL=FILE.")


def _check_same_model(hparams: Mapping[str, Any], setting: str) -> None:
    """Raise a HyperParameterError if methods name different models or data types."""
    for name, option in (("model_name", "--model"), ("dtype", "dtype")):
        values = {label: getattr(of_method, name, None) for label, of_method in hparams.items()}
        if len(set(map(resolve_dtype if name == "dtype" else str, values.values()))) > 1:
            listed = ", ".join(f"{label} {value}" for label, value in values.items())
            raise HyperParameterError(
                f"{setting}: the methods have different values of {name} ({listed}), but a comparison is on one model. "
                f"Set it for all with {option}."
            )


def _batch_size(shared: Experiment, hparams: Any) -> int | None:
    """Return the edits per batch of a method: 1 if it edits one request at a time; None for the hyperparameters'."""
    return shared.batch_size if shared.batch_size is None or find_method(hparams).batchable else 1
