"""What the bridge registers: EasyEdit's dataset loaders."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.bridge.easyedit_loaders import read_counterfact, read_zsre
from easyedit_lifelong.bridge.locate import find_easyedit
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import RecordLoader


@hookimpl
def register_loaders(register: Callable[[RecordLoader], None]) -> None:
    """Register EasyEdit's loaders of zsRE and CounterFact."""
    for name, load in (("zsre", read_zsre), ("counterfact", read_counterfact)):
        register(RecordLoader(name, load, lambda: find_easyedit() is not None))
