"""The illustration of GRACE's paper on points of two classes: one key corrects a region, fine-tuning harms the rest."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "two_classes.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("two_classes", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_one_key_corrects_the_region_and_leaves_the_other_points(example: Any, tmp_path: Path) -> None:
    result = example.illustrate()
    assert int(result.flipped.sum()) == 11
    assert result.accuracy("trained") == (0.0, 1.0)
    assert result.accuracy("GRACE") == (1.0, 1.0)
    assert result.keys == 1
    corrected, unchanged = result.accuracy("fine-tuned")
    assert corrected == 1.0
    assert unchanged < 0.7
    example.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
