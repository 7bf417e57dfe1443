"""What may be done with a placeholder, and what may not."""

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


def test_the_distribution_may_have_another_name() -> None:
    error = ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    with pytest.raises(MissingPackageError, match=r"sklearn\.metrics\.f1_score .* pip install scikit-learn$"):
        for_import("sklearn.metrics", "f1_score", error)()


def test_a_need_of_an_installed_package() -> None:
    error = ModuleNotFoundError("No module named 'other'", name="other")
    with pytest.raises(MissingPackageError, match="pip install other"):
        for_import("yaml", "thing", error)()


def test_a_removed_name_blames_the_version() -> None:
    error = ImportError("cannot import name 'old' from 'transformers'")
    with pytest.raises(MissingPackageError, match=r"transformers \d[\d.]* doesn't provide it .*another version"):
        for_import("transformers", "old", error)()


def test_a_broken_package_shows_its_error() -> None:
    with pytest.raises(MissingPackageError, match="RuntimeError: operator torchvision::nms does not exist"):
        for_import("torchvision", None, RuntimeError("operator torchvision::nms does not exist\nmore"))()


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

    class Other:
        pass

    class Second(Other, higher):  # type: ignore[valid-type, misc]
        pass

    for made in (First, Second):
        with pytest.raises(MissingPackageError, match="pip install higher"):
            made(1)


def test_use_during_an_import_gives_placeholders(higher: Placeholder) -> None:
    with importing():

        @higher.register("x")
        def function() -> None: ...

        class Base(higher.Base):  # type: ignore[misc, name-defined]
            pass

        things = [higher.a.b, higher.a[int], higher(), Base(), function]
        higher.key = 1
    for thing in things:
        assert isinstance(thing, Placeholder)
        with pytest.raises(MissingPackageError, match="pip install higher"):
            thing()


def test_placeholders_never_enter_sys_modules(easyeditor: Any) -> None:
    strays = [name for name, module in sys.modules.items() if isinstance(module, Placeholder)]
    assert strays == []
    for package in ("higher", "openai", "timm", "cv2"):
        if importlib.util.find_spec(package) is None:
            assert package not in sys.modules
