"""The methods of attribution, and the package that one of them needs."""

from __future__ import annotations

import importlib
from typing import Any, Literal, get_args

from easyedit_lifelong.errors import DataError, PluginError

Method = Literal["tracin", "ekfac"]
METHODS: tuple[Method, ...] = get_args(Method)


def check_attribution_method(method: str) -> None:
    """Check that a method is known, and that the package that it needs can be imported.

    Raises:
        DataError: the method isn't known.
        PluginError: the package kronfluence can't be imported.
    """
    if method not in METHODS:
        raise DataError(f"method: {method!r} isn't known. Use {' or '.join(METHODS)}.")
    if method == "ekfac":
        influence_module()


def influence_module() -> Any:
    """Import and return the module of EK-FAC.

    Raises:
        PluginError: kronfluence, or a package that it needs, can't be imported.
    """
    try:
        return importlib.import_module("easyedit_lifelong.locate.influence")
    except ImportError as error:
        raise PluginError(
            f"ekfac: kronfluence can't be imported: {error}. Run: pip install 'easyedit-lifelong[attribution]'"
        ) from error
