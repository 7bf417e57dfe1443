"""The functions that rewritten modules of EasyEdit call; see :mod:`easyedit_lifelong.bridge.rewrite`."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from easyedit_lifelong.bridge import placeholders
from easyedit_lifelong.bridge.stubs import STUBS
from easyedit_lifelong.models.devices import resolve_device

LOG = logging.getLogger(__name__)


class Runtime:
    """The functions for one module of EasyEdit, in its namespace under a private name.

    Args:
        namespace: the module's namespace.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    @staticmethod
    def device(device: Any = None) -> str:
        """Return the device that replaces EasyEdit's ``f"cuda:{device}"``.

        Args:
            device: a CUDA index, which stands for the CPU on a machine without CUDA, or the name of a device.
        """
        return str(resolve_device(device))

    @staticmethod
    def target(device: Any) -> Any:
        """Return the argument of ``.to()``: a number is resolved to a device, any other value is returned unchanged."""
        is_number = isinstance(device, int) and not isinstance(device, bool)
        is_index = is_number or (isinstance(device, str) and device.strip().isdigit())
        return Runtime.device(device) if is_index else device

    @staticmethod
    def index(device: Any) -> str:
        """Return a device's index as text, or its name if it has no index (``cpu``)."""
        return str(device).partition(":")[2] or str(device)

    def missing_import(self, error: BaseException, module: str, bound: str, has_alias: bool) -> None:
        """Bind the name of a failed ``import module`` to the module's package or to a placeholder.

        Args:
            error: the error of the import.
            module: the module's full name.
            bound: the name that the statement binds.
            has_alias: whether the statement has ``as``: it then binds the module, else the top-level package.
        """
        top = module.partition(".")[0]
        if not has_alias and top != module:
            try:
                self._namespace[bound] = importlib.import_module(top)
            except Exception as top_error:  # a broken package can raise anything
                self._bind(bound, top, None, top_error)
        else:
            self._bind(bound, module, None, error)

    def missing_from(self, error: BaseException, module: str, names: tuple[tuple[str, str], ...]) -> None:
        """Bind the names of a failed ``from module import …``: those that exist, and placeholders for the others.

        Args:
            error: the error of the import.
            module: the module's full name.
            names: each name, and the name that it is bound to.
        """
        try:
            source = importlib.import_module(module)
        except Exception as module_error:  # a broken package can raise anything
            for name, bound in names:
                self._bind(bound, module, name, module_error)
            return
        for name, bound in names:
            try:
                self._namespace[bound] = _import_name(source, module, name)
            except Exception as name_error:  # lazy modules import when an attribute is read
                self._bind(bound, module, name, name_error)

    def _bind(self, bound: str, module: str, name: str | None, error: BaseException) -> None:
        """Bind a name that can't be imported to its stub or to a placeholder."""
        stub = STUBS.get((module, name or ""))
        self._namespace[bound] = stub or placeholders.for_import(module, name, error)
        LOG.debug("%s: %s can't be imported: %s", self._namespace.get("__name__"), bound, error)


def _import_name(source: Any, module: str, name: str) -> Any:
    """Return an attribute or a submodule of an imported module, like ``from module import name``."""
    try:
        return getattr(source, name)
    except AttributeError:
        try:
            return importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            raise ImportError(f"cannot import name {name!r} from {module!r}") from None
