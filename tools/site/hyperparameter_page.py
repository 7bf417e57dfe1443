"""The page of all hyperparameters, from the dataclasses of the methods."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import typing
from collections.abc import Sequence
from typing import Any

import griffe
from markdown_tables import code, plain, table

from easyedit_lifelong import PluginHyperParams, get_plugins
from easyedit_lifelong.hyperparams import describe_type

_INTRODUCTION = """# Hyperparameters

Every key of a hyperparameter file, by method. A key is *required* if it has no default. The pages of the methods say
which values to choose; the files that are shipped with this package are in `hparams/`. This page is generated from the
classes that read these files.

"""
_HEADER = ["key", "default", "values", "meaning"]


def hyperparameter_page() -> str:
    """Return the page, in Markdown. Methods whose classes are in one module share a section."""
    classes: list[Any] = [method.hparams_class for method in get_plugins().methods]
    ours = [cls for cls in classes if cls.__module__.startswith("easyedit_lifelong.methods.")]
    page = _INTRODUCTION + _section("Keys of every method", [PluginHyperParams], leave_out=())
    common = field_names(PluginHyperParams)
    for _, group in itertools.groupby(ours, key=lambda cls: cls.__module__):
        members = list(group)
        names = ", ".join(cls.ALG_NAME for cls in members)
        page += _section(names, members, leave_out=common)
    return page


def field_names(cls: Any) -> list[str]:
    """Return the names of the fields that a file can set."""
    return [field.name for field in dataclasses.fields(cls) if not field.metadata.get("internal")]


def field_rows(classes: Sequence[Any], leave_out: Sequence[str]) -> list[list[str]]:
    """Return a row for each field of some classes: its name, default, values and meaning.

    Args:
        classes: hyperparameter classes. If the defaults of a field differ, the row has that of each class.
        leave_out: names of fields without a row.

    Raises:
        ValueError: a docstring does not describe a field.
    """
    rows = []
    for name in dict.fromkeys(itertools.chain.from_iterable(map(field_names, classes))):
        if name in leave_out:
            continue
        owners = [cls for cls in classes if name in field_names(cls)]
        defaults = {cls: _default(cls, name) for cls in owners}
        if len(set(defaults.values())) == 1:
            default = defaults[owners[0]]
        else:
            default = "; ".join(f"{cls.ALG_NAME}: {defaults[cls]}" for cls in owners)
        rows.append([code(name), default, _allowed_values(owners[0], name), plain(_meaning(owners[0], name))])
    return rows


def _section(title: str, classes: Sequence[Any], leave_out: Sequence[str]) -> str:
    """Return the section of some classes."""
    return f"\n## {title}\n\n" + table(_HEADER, field_rows(classes, leave_out))


def _default(cls: Any, name: str) -> str:
    """Return the default of a field as a YAML file would have it."""
    field = cls.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        value = field.default
    else:
        return "*required*"
    text = json.dumps(value, ensure_ascii=False)
    return code(text[1:-1] if isinstance(value, str) and value else text)


def _allowed_values(cls: Any, name: str) -> str:
    """Return the type of a field, in words, and its range."""
    if name in cls.CHOICES:
        return ", ".join(code("null" if choice is None else str(choice)) for choice in cls.CHOICES[name])
    text = describe_type(typing.get_type_hints(cls)[name]) if name != "model_name" else "text"
    if name in cls.AT_LEAST:
        text += f", at least {cls.AT_LEAST[name]:g}"
    if name in cls.ABOVE_ZERO:
        text += ", above 0"
    return plain(text)


def _meaning(cls: Any, name: str) -> str:
    """Return what the docstring of a class, or of one of its bases, says about a field."""
    for base in cls.__mro__:
        sections = griffe.Docstring(inspect.cleandoc(vars(base).get("__doc__") or "")).parse("google")
        for section in sections:
            if section.kind is griffe.DocstringSectionKind.attributes:
                for attribute in section.value:
                    if attribute.name == name:
                        return attribute.description
    raise ValueError(f"{cls.__name__}: no docstring describes {name}")
