"""The covariance engine of docs/plugins.md collects what the native engine collects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from easyedit_lifelong.covariance import obtain_moments
from easyedit_lifelong.errors import CovarianceError, PluginError
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import CovarianceEngine
from tests.support.documents import ROOT, code_blocks

MODULES = ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]


@pytest.fixture
def engine() -> Iterator[str]:
    """Register the engine of the page; return its name."""
    [block] = [block for block in code_blocks(ROOT / "docs" / "plugins.md", "python") if "CovarianceEngine" in block]
    plugin = ModuleType("one_by_one")
    exec(block, vars(plugin))
    get_plugins().add(plugin, "documented-engine")
    yield "one-by-one"
    get_plugins().remove("documented-engine")


def test_the_documented_engine_gives_the_moments_of_the_native_one(
    engine: str, model: Any, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"dataset": texts, "n_samples": 30, "n_tokens": None}
    native = obtain_moments(model, tokenizer, MODULES, stats_dir=tmp_path / "native", **options)
    theirs = obtain_moments(model, tokenizer, MODULES, stats_dir=tmp_path / "theirs", engine=engine, **options)
    for module in MODULES:
        assert theirs[module].count == native[module].count
        torch.testing.assert_close(theirs[module].moment, native[module].moment)
    with pytest.raises(CovarianceError, match="needs a corpus and a number of samples"):
        obtain_moments(model, tokenizer, MODULES, stats_dir=tmp_path, dataset="self", n_tokens=9, engine=engine)


def test_an_engine_that_leaves_a_module_out_is_named(
    model: Any, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    class Plugin:
        """An engine that collects nothing."""

        @hookimpl
        def register_covariance_engines(self, register: Any) -> None:
            register(CovarianceEngine("lazy", lambda *_: {}))

    get_plugins().add(Plugin(), "lazy-engine")
    try:
        with pytest.raises(PluginError, match=f"covariance engine 'lazy' collected nothing for {MODULES[0]}"):
            obtain_moments(model, tokenizer, MODULES[:1], stats_dir=tmp_path, dataset=texts, engine="lazy")
    finally:
        get_plugins().remove("lazy-engine")
