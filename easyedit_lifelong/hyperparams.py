"""Base class of hyperparameters: EasyEdit's YAML, read strictly.

EasyEdit passes a YAML's keys to a dataclass: a mistyped key is a ``TypeError``, and a mistyped value fails an hour into
the run. Here all problems of a file are reported at once, by name, before anything else happens.
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
    """What every editing method's hyperparameters have in common.

    Subclasses are keyword-only dataclasses that set :attr:`ALG_NAME`; see docs/plugins.md.

    Attributes:
        model_name: a model's name, folder or GGUF file, or a loaded ``(model, tokenizer)`` pair.
        alg_name: EasyEdit's name of the method.
        device: CUDA index, ``cpu``, ``cuda:0``, ``mps``; ``None`` or ``auto`` for the best there is.
        model_parallel: spread the model over all devices.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
        trust_remote_code: run code that comes with the checkpoint.
        batch_size: EasyEdit's number of requests per batch.
        max_length: EasyEdit's limit, in tokens, on what its own scoring feeds.
        seed: everything random in the method comes from this.
    """

    ALG_NAME: ClassVar[str] = ""
    ALIASES: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}
    """Other spellings of a field's values, by field."""
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """The values that a field can take, by field."""
    AT_LEAST: ClassVar[Mapping[str, float]] = {"batch_size": 1, "max_length": 1}
    """The smallest value that a field can take, by field."""
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ()
    """Fields that must be greater than zero."""

    model_name: Any
    alg_name: str = ""
    device: int | str | None = None
    model_parallel: bool = False
    dtype: str | None = None
    trust_remote_code: bool = False
    batch_size: int = 1
    max_length: int = 40
    seed: int = 0

    source: str = field(default="", repr=False, compare=False, metadata={"internal": True})
    """The file these were read from, for messages."""

    def __post_init__(self) -> None:
        """Convert values to their types and check them.

        Raises:
            HyperParameterError: some value cannot be used; the message lists all of them.
        """
        self.alg_name = self.alg_name or self.ALG_NAME
        problems: list[str] = []
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):
            value = _aliased(getattr(self, item.name), self.ALIASES.get(item.name, {}))
            try:
                value = coerce(value, hints[item.name])
            except TypeError:
                problems.append(f"{item.name}: {value!r} is not {describe_type(hints[item.name])}")
                continue
            setattr(self, item.name, value)
            problems += self._out_of_range(item.name, value)
        if self.ALG_NAME and self.alg_name != self.ALG_NAME:
            problems.append(f"alg_name: {self.alg_name!r} is another method; this class is for {self.ALG_NAME!r}")
        name, not_loaded = self.model_name, (str, int, float, type(None))
        loaded = isinstance(name, (tuple, list)) and len(name) == 2 and not any(isinstance(x, not_loaded) for x in name)
        if not loaded and not (isinstance(name, str) and name.strip()):
            problems.append(f"model_name: {name!r} is not a model's name, folder or file (in quotes if it's a number)")
        problems += self.check()
        if problems:
            raise HyperParameterError(f"{self.source or type(self).__name__}: " + "; ".join(problems))

    def check(self) -> list[str]:
        """Return what is wrong with these values together; overridden by methods."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name, as a YAML file would hold them (EasyEdit's ``to_dict``)."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if not item.metadata.get("internal")
        }

    @classmethod
    def from_hparams(cls: type[Params], hparams_name_or_path: str | Path) -> Params:
        """Read a hyperparameter file.

        Args:
            hparams_name_or_path: a YAML or JSON file; ``.yaml`` may be left out, as in EasyEdit. A
                name like ``GRACE/gpt2-xl`` that isn't a file is looked for among those that come
                with this package.

        Raises:
            HyperParameterError: the file isn't there or can't be used; the message names the file,
                every field that is wrong, and what it could have been.
        """
        path = find_hparams(hparams_name_or_path)
        return cls.from_values(read_hparams_file(path), str(path))

    @classmethod
    def from_values(cls: type[Params], values: Mapping[str, Any], source: str) -> Params:
        """Return hyperparameters that are given by name.

        Args:
            values: as a hyperparameter file holds them.
            source: where they come from, for messages.

        Raises:
            HyperParameterError: they can't be used; the message names every one that is wrong.
        """
        problems = misnamed_values(cls, values)
        if problems:
            raise HyperParameterError(f"{source}: " + "; ".join(problems))
        return cls(**values, source=source)

    def _out_of_range(self, name: str, value: Any) -> list[str]:
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


def misnamed_values(cls: Any, values: Mapping[str, Any]) -> list[str]:
    """Return which values a dataclass of hyperparameters has no field for, and which fields lack a value."""
    fields = [item for item in dataclasses.fields(cls) if not item.metadata.get("internal")]
    known, default = {item.name for item in fields}, dataclasses.MISSING
    unknown = [f"unknown hyperparameter {key!r}.{did_you_mean(str(key), known)}" for key in values if key not in known]
    return unknown + [
        f"{item.name}: missing"
        for item in fields
        if item.default is default and item.default_factory is default and item.name not in values
    ]


def _aliased(value: Any, aliases: Mapping[Any, Any]) -> Any:
    if isinstance(value, str) and value.strip().lower() in {"none", "null"}:
        value = None
    return aliases.get(value, value) if isinstance(value, (str, type(None))) else value


def coerce(value: Any, hint: Any) -> Any:
    """Return a value as the hinted type, if nothing is lost.

    Args:
        value: as YAML holds it.
        hint: a class, a list, a union, a literal (EasyEdit's classes have some), or ``Any``.

    Raises:
        TypeError: the value is not of that type.
    """
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            with contextlib.suppress(TypeError):
                return coerce(value, option)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is list and isinstance(value, (list, tuple)):
        return [coerce(item, arguments[0]) for item in value]
    if hint in (int, float):
        value = _number(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise TypeError


def describe_type(hint: Any) -> str:
    """Return in words what a value of a type is."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        (item,) = typing.get_args(hint)
        return "a list of " + {int: "whole numbers", float: "numbers"}.get(item, describe_type(item))
    options = typing.get_args(hint) or (hint,)
    return " or ".join(
        describe_type(option) if typing.get_origin(option) else names.get(option, str(option)) for option in options
    )


def _number(value: Any) -> Any:
    """Return the number that text such as ``1e-3`` means: without a dot, this is text to YAML 1.1."""
    if isinstance(value, str) and any(c in value for c in ".eE"):
        with contextlib.suppress(ValueError):
            return float(value)
    return value
