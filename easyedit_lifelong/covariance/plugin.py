"""Registers the native covariance engine."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.lazy_names import lazy_function
from easyedit_lifelong.registry import CovarianceEngine


@hookimpl
def register_covariance_engines(register: Callable[[CovarianceEngine], None]) -> None:
    """Register the native engine."""
    register(CovarianceEngine("native", lazy_function("easyedit_lifelong.covariance.native_engine", "collect")))
