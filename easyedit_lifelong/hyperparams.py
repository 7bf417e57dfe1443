"""Base class of hyperparameters: reads EasyEdit's YAML files and validates every value.

EasyEdit passes the keys of a YAML file to a dataclass without checks. A misspelled key is then a ``TypeError``, and a
value of the wrong type can fail an hour into a run. This class reports all problems of a file at once, by field name,
before a model is loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file

Params = TypeVar("Params", bound="PluginHyperParams")


@dataclass(kw_only=True)
class PluginHyperParams:
    """Base class of the hyperparameters of all editing methods.

    Subclasses are keyword-only dataclasses that set :attr:`ALG_NAME`; see docs/plugins.md.

    Attributes:
        model_name: a model's name, folder or GGUF file, or a loaded ``(model, tokenizer)`` pair.
        alg_name: the method's name in EasyEdit.
        device: CUDA index, ``cpu``, ``cuda:0``, ``mps``; ``None`` or ``auto`` for the best available device.
        model_parallel: spread the model over all devices.
        dtype: data type of the weights: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
        trust_remote_code: run code that is part of the checkpoint.
        batch_size: number of requests in a batch.
        max_length: limit, in tokens, on the inputs of EasyEdit's own scoring.
        seed: seed of all random numbers of the method.
        joiner: what stands between a prompt and its target, such as ``" "`` or ``""``. ``auto``: the texts decide. A
            request can set its own.
    """

    ALG_NAME: ClassVar[str] = ""
    ALIASES: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}
    """Alternative spellings of a field's values, by field name."""
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """The allowed values, by field name."""
    AT_LEAST: ClassVar[Mapping[str, float]] = {"batch_size": 1, "max_length": 1}
    """The smallest allowed value, by field name."""
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ()
    """The names of fields that must be greater than zero."""

    model_name: Any
    alg_name: str = ""
    device: int | str | None = None
    model_parallel: bool = False
    dtype: str | None = None
    trust_remote_code: bool = False
    batch_size: int = 1
    max_length: int = 40
    seed: int = 0
    joiner: str = "auto"

    source: str = field(default="", repr=False, compare=False, metadata={"internal": True})
    """The file that the values were read from, for error messages."""

    @property
    def writes_weights(self) -> bool:
        """Whether the edits change the model's own weights. Methods whose edits do override this."""
        return False

    def __post_init__(self) -> None:
        """Convert each value to the type of its field and check it.

        Raises:
            HyperParameterError: a value is invalid; the message lists all invalid values.
        """
        self.alg_name = self.alg_name or self.ALG_NAME
        problems: list[str] = []
        hints = typing.get_type_hints(type(self))
        for field_ in dataclasses.fields(self):
            value = _resolve_alias(getattr(self, field_.name), self.ALIASES.get(field_.name, {}))
            try:
                value = convert_value(value, hints[field_.name])
            except TypeError:
                problems.append(f"{field_.name}: {value!r} is not {describe_type(hints[field_.name])}")
                continue
            setattr(self, field_.name, value)
            problems += self._range_problems(field_.name, value)
        if self.ALG_NAME and self.alg_name != self.ALG_NAME:
            problems.append(_another_method(self.alg_name, self.ALG_NAME))
        if not _is_name_or_loaded_pair(self.model_name):
            problems.append(
                f"model_name: {self.model_name!r} is not a model's name, folder or file (in quotes if it's a number)"
            )
        problems += self.check()
        if problems:
            raise HyperParameterError(f"{self.source or type(self).__name__}: " + "; ".join(problems))

    def check(self) -> list[str]:
        """Return the problems that concern several fields, one sentence each. Subclasses override this."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Return the values by field name, as a YAML file holds them. EasyEdit calls this method."""
        return {field_.name: getattr(self, field_.name) for field_ in _public_fields(self)}

    @classmethod
    def from_hparams(cls: type[Params], hparams_name_or_path: str | Path) -> Params:
        """Read a hyperparameter file.

        Args:
            hparams_name_or_path: a YAML or JSON file, or the name of a file shipped with this package, such as
                ``GRACE/gpt2-xl``. As in EasyEdit, ``.yaml`` can be left out.

        Raises:
            HyperParameterError: the file doesn't exist or is invalid; the message names the file and every field with
                an invalid value.
        """
        path = find_hparams(hparams_name_or_path)
        return cls.from_values(read_hparams_file(path), str(path))

    @classmethod
    def from_values(cls: type[Params], values: Mapping[str, Any], source: str) -> Params:
        """Return hyperparameters with given values.

        Args:
            values: the values by field name, as a hyperparameter file holds them.
            source: the file that they come from, for error messages.

        Raises:
            HyperParameterError: a value is invalid, unknown or missing; the message lists all of them.
        """
        alg_name = values.get("alg_name")
        if cls.ALG_NAME and isinstance(alg_name, str) and alg_name not in ("", cls.ALG_NAME):
            # The rest of another method's file would be a list of unknown values.
            raise HyperParameterError(f"{source}: {_another_method(alg_name, cls.ALG_NAME)}")
        problems = unknown_and_missing(cls, values)
        if problems:
            raise HyperParameterError(f"{source}: " + "; ".join(problems))
        return cls(**values, source=source)

    def _range_problems(self, name: str, value: Any) -> list[str]:
        """Return an error message if a value is outside the range of its field."""
        if name in self.CHOICES and value not in self.CHOICES[name]:
            choices = [str(choice) for choice in self.CHOICES[name]]
            return [f"{name}: {value!r} isn't one of {', '.join(choices)}.{did_you_mean(str(value), choices)}"]
        if value is None:
            return []
        if isinstance(value, float) and not math.isfinite(value):
            return [f"{name}: {value} is not a finite number"]
        if name in self.AT_LEAST and value < self.AT_LEAST[name]:
            return [f"{name}: {value} is less than {self.AT_LEAST[name]:g}"]
        if name in self.ABOVE_ZERO and not value > 0:
            return [f"{name}: {value} must be greater than 0"]
        return []


def unknown_and_missing(cls: Any, values: Mapping[str, Any]) -> list[str]:
    """Return an error message for each value without a field, and for each required field without a value.

    Args:
        cls: a dataclass of hyperparameters, ours or EasyEdit's.
        values: the values by field name.
    """
    fields = _public_fields(cls)
    known = {field_.name for field_ in fields}
    unset = dataclasses.MISSING
    required = [field_.name for field_ in fields if field_.default is unset and field_.default_factory is unset]
    unknown = [key for key in values if key not in known]
    hints = [did_you_mean(str(key), known) for key in unknown[:_MAX_SHOWN]]
    problems = [
        f"unknown hyperparameter {key!r}{hint and '.'}{hint}" for key, hint in zip(unknown, hints, strict=False)
    ]
    if len(unknown) > _MAX_SHOWN:
        problems.append(f"{len(unknown) - _MAX_SHOWN} more unknown hyperparameters")
    return problems + [f"{name}: missing" for name in required if name not in values]


def _another_method(alg_name: str, expected: str) -> str:
    """Return the error message for hyperparameters of another method."""
    return f"alg_name: {alg_name!r} is another method; this class is for {expected!r}"


def _public_fields(hparams: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass of hyperparameters, or of its instance, that a file can set."""
    return [field_ for field_ in dataclasses.fields(hparams) if not field_.metadata.get("internal")]


def _is_name_or_loaded_pair(model: Any) -> bool:
    """Return whether a value of ``model_name`` is text, or a pair of a loaded model and its tokenizer."""
    if isinstance(model, (tuple, list)):
        return len(model) == 2 and not any(isinstance(part, (str, int, float, type(None))) for part in model)
    return isinstance(model, str) and bool(model.strip())


def _resolve_alias(value: Any, aliases: Mapping[Any, Any]) -> Any:
    """Return the value that an alias stands for; the texts ``none`` and ``null`` stand for None."""
    if isinstance(value, str) and value.strip().lower() in {"none", "null"}:
        value = None
    return aliases.get(value, value) if isinstance(value, (str, type(None))) else value


_MAX_SHOWN = 10
"""Unknown hyperparameters that an error lists."""

_INTEGER_LIMIT = 2**63
"""Whole numbers from here on fit neither torch's seeds nor its sizes."""


def convert_value(value: Any, hint: Any) -> Any:
    """Convert a value to a type if the conversion loses nothing, such as 1 to 1.0 and ``"1e-3"`` to 0.001.

    In a union, the first class that the value can be converted to is chosen. But text stays text if the union has
    ``str`` and does not have ``float``.

    Args:
        value: the value, as read from YAML.
        hint: a class, ``list[...]``, a union, a ``Literal`` (EasyEdit's classes use it), or ``Any``.

    Raises:
        TypeError: the value can't be converted.
    """
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if isinstance(value, str) and str in arguments and float not in arguments:
            return value  # "1e3" can be the name of a device; it is a number only where a float is allowed
        for option in arguments:
            with contextlib.suppress(TypeError):
                return convert_value(value, option)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is list and isinstance(value, (list, tuple)):
        return [convert_value(element, arguments[0]) for element in value]
    if hint in (int, float):
        value = _parse_number(value)
    if isinstance(value, int) and not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise TypeError
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise TypeError


def describe_type(hint: Any) -> str:
    """Return a type in words, for error messages: ``a whole number``, ``text or nothing``."""
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        list: "a list",
        dict: "a mapping",
        type(None): "nothing",
    }
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        (element,) = typing.get_args(hint)
        return "a list of " + {int: "whole numbers", float: "numbers"}.get(element, describe_type(element))
    options = typing.get_args(hint) or (hint,)
    return " or ".join(
        describe_type(option) if typing.get_origin(option) else names.get(option, str(option)) for option in options
    )


def _parse_number(value: Any) -> Any:
    """Return text such as ``1e-3`` as a number: YAML 1.1 reads a number with an exponent but no dot as text."""
    if isinstance(value, str) and any(character in value for character in ".eE"):
        with contextlib.suppress(ValueError):
            return float(value)
    return value
