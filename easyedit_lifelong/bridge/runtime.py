"""What the rewritten source of EasyEdit's modules calls; see :mod:`easyedit_lifelong.bridge.rewrite`."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from easyedit_lifelong.bridge import placeholders
from easyedit_lifelong.bridge.stubs import STUBS
from easyedit_lifelong.models.devices import resolve_device

LOG = logging.getLogger(__name__)


class Runtime:
    """The helper that each module of EasyEdit gets under a private name.

    Args:
        namespace: the module's namespace.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    @staticmethod
    def device(device: Any = None) -> str:
        """Return the device that EasyEdit would have called ``f"cuda:{device}"``.

        Args:
            device: a CUDA index (the CPU where there is no CUDA), or a device already named in
                full, as our editors and a model spread over devices leave it.
        """
        return str(resolve_device(device))

    @staticmethod
    def target(device: Any) -> Any:
        """Return a device for ``.to()``: bare numbers are resolved, anything else stays what it is."""
        is_number = isinstance(device, int) and not isinstance(device, bool)
        is_index = is_number or (isinstance(device, str) and device.strip().isdigit())
        return Runtime.device(device) if is_index else device

    @staticmethod
    def index(device: Any) -> str:
        """Return a device's index, or its name where it has none (``cpu``)."""
        return str(device).partition(":")[2] or str(device)

    def missing_import(self, error: BaseException, module: str, bound: str, whole: bool) -> None:
        """Bind what ``import module`` should have bound.

        Args:
            error: why the import failed.
            module: the module's full name.
            bound: the name that the statement binds.
            whole: whether that name stands for the module itself (``as``) or for its top level.
        """
        top = module.partition(".")[0]
        if not whole and top != module:
            try:
                self._namespace[bound] = importlib.import_module(top)
            except Exception as top_error:  # whatever a half-broken package raises
                self._bind(bound, top, None, top_error)
        else:
            self._bind(bound, module, None, error)

    def missing_from(self, error: BaseException, module: str, names: tuple[tuple[str, str], ...]) -> None:
        """Bind what ``from module import …`` should have bound: what is there, as it is.

        Args:
            error: why the import failed.
            module: the module's full name.
            names: each name, and the name it is bound to.
        """
        try:
            source = importlib.import_module(module)
        except Exception as module_error:  # whatever a half-broken package raises
            for name, bound in names:
                self._bind(bound, module, name, module_error)
            return
        for name, bound in names:
            try:
                self._namespace[bound] = _take(source, module, name)
            except Exception as name_error:  # lazy modules import at attribute access
                self._bind(bound, module, name, name_error)

    def _bind(self, bound: str, module: str, name: str | None, error: BaseException) -> None:
        stub = STUBS.get((module, name or ""))
        self._namespace[bound] = stub or placeholders.for_import(module, name, error)
        LOG.debug("%s: %s isn't there: %s", self._namespace.get("__name__"), bound, error)


def _take(source: Any, module: str, name: str) -> Any:
    try:
        return getattr(source, name)
    except AttributeError:
        try:
            return importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            raise ImportError(f"cannot import name {name!r} from {module!r}") from None
