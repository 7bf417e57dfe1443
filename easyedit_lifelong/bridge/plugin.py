"""The bridge as a plugin: registers EasyEdit's dataset loaders and its code for second moments."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.bridge.easyedit_loaders import read_counterfact, read_zsre
from easyedit_lifelong.bridge.easyedit_location import find_easyedit
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.lazy_names import lazy_function
from easyedit_lifelong.registry import CovarianceEngine, RecordLoader


@hookimpl
def register_loaders(register: Callable[[RecordLoader], None]) -> None:
    """Register EasyEdit's loaders of zsRE and CounterFact files."""
    for name, load in (("zsre", read_zsre), ("counterfact", read_counterfact)):
        register(RecordLoader(name, load, lambda: find_easyedit() is not None))


@hookimpl
def register_covariance_engines(register: Callable[[CovarianceEngine], None]) -> None:
    """Register the engine that uses EasyEdit's ``layer_stats``."""
    module = "easyedit_lifelong.bridge.easyedit_covariance"
    collect, check = lazy_function(module, "collect"), lazy_function(module, "check")
    register(CovarianceEngine("easyedit", collect, check, counts_tokens=False))
