"""The hyperparameters of EasyEdit's own methods: read them from files, strictly, and tell whose they are."""

from __future__ import annotations

import copy
import dataclasses
import functools
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.bridge.easyedit_location import PACKAGE, import_easyedit
from easyedit_lifelong.bridge.method_names import easyedit_name, easyedits_full_name
from easyedit_lifelong.bridge.registration import own_function
from easyedit_lifelong.errors import HyperParameterError, UnusableMethodError
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file
from easyedit_lifelong.hyperparams import convert_value, describe_type, unknown_and_missing
from easyedit_lifelong.plugins import get_plugins

REWRITES_WEIGHTS = ("layers", "rewrite_module_tmp")
"""The fields by which a method that rewrites weights is recognised. Those in :data:`METHODS` need not have them."""

METHODS = ("ULTRAEDIT", "SimIE", "DEFER", "WISE")
"""Further methods that can run in this package's loops."""

_FIELDS_OF_SOME_VERSIONS = {"objective_optimization": "prompt_last"}
"""Fields that not every version of EasyEdit has, with the value for what the other versions do."""


def hparams_class(name: str) -> type:
    """Return the hyperparameter class of one of EasyEdit's own methods.

    Args:
        name: the method's name in EasyEdit.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        PluginError: EasyEdit has no such method, or it can't run in this package's loops.
    """
    easyeditor = import_easyedit()
    own_function(name)
    classes = {attribute.lower(): attribute for attribute in dir(easyeditor)}
    cls: Any = getattr(easyeditor, classes.get(f"{name.lower().replace('-', '_')}hyperparams", ""), None)
    is_dataclass = isinstance(cls, type) and dataclasses.is_dataclass(cls)
    fields = {item.name for item in dataclasses.fields(cls)} if is_dataclass else set()
    if not is_dataclass or not (name in METHODS or fields.issuperset(REWRITES_WEIGHTS)):
        raise UnusableMethodError(
            f"EasyEdit's own {name} can't run in this package's loops: only methods that rewrite weights can "
            "(MEMIT, ROME, FT, …), because their edits can be rolled back and saved, and WISE and DEFER."
        )
    return _with_base(cls) if name == "SimIE" else cls


@functools.cache
def _with_base(simie: Any) -> type:
    """Return a subclass of SimIE's hyperparameters with the field ``base_file``.

    It is the hyperparameter file of the base method. EasyEdit derives the name of this file from that of SimIE's file.
    """

    def read_base(self: Any) -> None:
        if not self.base_file:
            raise HyperParameterError("base_file: missing; it is the hyperparameter file of base_method")
        self._base_hparams = read_easyedit_hparams(find_hparams(self.base_file), self.base_method)

    def to_dict(self: Any) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.init}

    namespace = {"__post_init__": read_base, "to_dict": to_dict, "__module__": simie.__module__}
    fields = [("base_file", str, dataclasses.field(default=""))]
    return dataclasses.make_dataclass(simie.__name__, fields, bases=(simie,), namespace=namespace)


def read_easyedit_hparams(path: Path, name: str) -> Any:
    """Read a hyperparameter file of one of EasyEdit's own methods, and check it like :func:`easyedit_hparams`."""
    return easyedit_hparams(read_hparams_file(path), name, str(path))


def easyedit_hparams(values: Mapping[str, Any], name: str, source: str) -> Any:
    """Return the hyperparameters of one of EasyEdit's own methods; check the type of every value.

    Args:
        values: the values by field name, as a hyperparameter file holds them.
        name: the method's name, with or without the prefix.
        source: the file that they come from, for error messages.

    Raises:
        HyperParameterError: a value is invalid, unknown or missing; the message lists all of them.
        PluginError: EasyEdit has no such method.
    """
    cls = hparams_class(easyedit_name(name))
    hints = typing.get_type_hints(cls)
    values = {**{key: value for key, value in _FIELDS_OF_SOME_VERSIONS.items() if key in hints}, **values}
    values = _as_fields(values, easyedit_name(name), hints, source)
    problems = unknown_and_missing(cls, values)
    for key in hints.keys() & values.keys():
        # EasyEdit annotates device as int but accepts text, its files have null for some fields, and false for a number
        # that is not used (norm_constraint).
        if key == "device" or values[key] is None or (values[key] is False and hints[key] is float):
            continue
        hint = float if key.endswith("_lr") else hints[key]  # DEFER annotates edit_lr as int
        try:
            values[key] = convert_value(values[key], hint)
        except (TypeError, ValueError):
            problems.append(f"{key}: {values[key]!r} is not {describe_type(hint)}")
    if problems:
        raise HyperParameterError(f"{source}: " + "; ".join(sorted(problems)))
    try:
        return cls(**values)
    except HyperParameterError as error:  # of SimIE's base method
        raise HyperParameterError(f"{source}: {error}") from error


def _as_fields(values: dict[str, Any], name: str, hints: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the values of a file by the names of fields, as EasyEdit's ``from_hparams`` does for some methods."""
    if name == "WISE" and isinstance(margin := values.get("act_margin"), list) and len(margin) == 3:
        values = {**values, **dict(zip(("alpha", "beta", "gamma"), margin, strict=True))}
        del values["act_margin"]
    if name == "ULTRAEDIT":
        values = {key: value for key, value in values.items() if key != "alg"}
        if "class_name" in values:
            values.setdefault("model_class", values.pop("class_name"))
    if name == "SimIE" and not values.get("base_file") and Path(source).is_file():
        own_folder, base_folder = "/SimIE/", f"/{values.get('base_method')}/"
        values = {**values, "base_file": str(source).replace(own_folder, base_folder)}
    return values


def unambiguous_hparams(hparams: Any) -> Any:
    """Return hyperparameters whose ``alg_name`` says that they belong to EasyEdit, if one of our methods has that name.

    A run stores ``alg_name`` in its folder. Without the prefix, a resumed run would use our method.

    Args:
        hparams: hyperparameters of any method.
    """
    name = str(getattr(hparams, "alg_name", ""))
    if not is_easyedits(hparams) or name not in get_plugins().methods:
        return hparams
    result = copy.copy(hparams)
    result.alg_name = easyedits_full_name(name)
    return result


def is_easyedits(hparams: Any) -> bool:
    """Return whether hyperparameters are an instance of a class of EasyEdit."""
    return type(hparams).__module__.partition(".")[0] == PACKAGE
