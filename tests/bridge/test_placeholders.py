"""Placeholders for packages that aren't installed: what works with them, and what raises an error that names them."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from typing import Any, Optional

import pytest

from easyedit_lifelong.bridge.placeholders import (
    MissingPackageError,
    Placeholder,
    for_failed_module,
    for_import,
    importing,
)
from easyedit_lifelong.errors import LifelongError


@pytest.fixture
def higher() -> Placeholder:
    """The placeholder for a package that isn't installed."""
    return for_import("higher", None, ModuleNotFoundError("No module named 'higher'", name="higher"))


@pytest.mark.parametrize(
    "use",
    [
        lambda p: p(),
        lambda p: p.patch,
        lambda p: p[0],
        lambda p: list(p),
        lambda p: setattr(p, "key", 1),
        lambda p: 1 in p,
        lambda p: p.__enter__(),
    ],
)
def test_any_use_names_the_package_to_install(higher: Placeholder, use: Any) -> None:
    with pytest.raises(MissingPackageError, match=r"EasyEdit's MEND needs it\. Run: pip install higher$") as caught:
        use(higher)
    assert isinstance(caught.value, LifelongError)
    assert isinstance(caught.value, ImportError)
    assert caught.value.package == caught.value.name == "higher"


@pytest.mark.parametrize(
    ("module", "name", "error", "message"),
    [
        (
            "sklearn.metrics",
            "f1_score",
            ModuleNotFoundError("No module named 'sklearn'", name="sklearn"),
            r"sklearn\.metrics\.f1_score .* pip install scikit-learn$",
        ),
        ("yaml", "thing", ModuleNotFoundError("No module named 'other'", name="other"), "pip install other"),
        (
            "transformers",
            "old",
            ImportError("cannot import name 'old' from 'transformers'"),
            r"transformers \d[\d.]* doesn't provide it .*another version",
        ),
        (
            "torchvision",
            None,
            RuntimeError("operator torchvision::nms does not exist\nmore"),
            "RuntimeError: operator torchvision::nms does not exist",
        ),
    ],
    ids=["another-distribution-name", "requirement-of-an-installed-package", "removed-name", "broken-package"],
)
def test_the_message_names_the_cause_of_a_failed_import(
    module: str, name: str | None, error: Exception, message: str
) -> None:
    with pytest.raises(MissingPackageError, match=message):
        for_import(module, name, error)()


def test_a_name_of_a_failed_module_reports_the_cause() -> None:
    cause = MissingPackageError("no higher", "higher")
    with pytest.raises(MissingPackageError, match=r"easyeditor\.x\.f can't be used.*no higher") as caught:
        for_failed_module("easyeditor.x", "f", cause)()
    assert caught.value.package == "higher"


def test_a_placeholder_may_be_annotated_with_and_tested_against(higher: Placeholder) -> None:
    assert repr(higher) == "<placeholder for higher>"
    assert not isinstance(1, higher)  # type: ignore[arg-type]
    assert not isinstance(1, (str, higher))  # type: ignore[arg-type]
    assert not issubclass(int, higher)  # type: ignore[arg-type]
    assert Optional[higher]  # noqa: UP045 - EasyEdit's spelling
    assert higher | None
    assert None | higher
    assert inspect.unwrap(higher) is higher
    assert not inspect.isclass(higher)


def test_a_placeholder_may_be_subclassed_but_not_instantiated(higher: Placeholder) -> None:
    class First(higher):  # type: ignore[valid-type, misc]
        pass

    class Unrelated:
        pass

    class Second(Unrelated, higher):  # type: ignore[valid-type, misc]
        pass

    for subclass in (First, Second):
        with pytest.raises(MissingPackageError, match="pip install higher"):
            subclass(1)


def test_use_during_an_import_gives_placeholders(higher: Placeholder) -> None:
    with importing():

        @higher.register("x")
        def function() -> None: ...

        class Base(higher.Base):  # type: ignore[misc, name-defined]
            pass

        placeholders = [higher.a.b, higher.a[int], higher(), Base(), function]
        higher.key = 1
    for placeholder in placeholders:
        assert isinstance(placeholder, Placeholder)
        with pytest.raises(MissingPackageError, match="pip install higher"):
            placeholder()


def test_placeholders_never_enter_sys_modules(easyeditor: Any) -> None:
    found = [name for name, module in sys.modules.items() if isinstance(module, Placeholder)]
    assert found == []
    for package in ("higher", "openai", "timm", "cv2"):
        if importlib.util.find_spec(package) is None:
            assert package not in sys.modules
