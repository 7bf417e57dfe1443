"""EasyEdit in either flavour, tiny models, and methods that are registered for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.bridge import easyedit_method, easyedit_methods, find_easyedit, install, requirements
from easyedit_lifelong.bridge.weights import base_of
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import Plugins, get_plugins
from tests.support.easyedit_memit import random_moments
from tests.support.installed_easyedit import skip_without_easyedit
from tests.support.toy_method import Plugin, Toy, ToyHyperParams, make_pair


@pytest.fixture(scope="session")
def easyeditor() -> Any:
    """EasyEdit, imported through the bridge."""
    skip_without_easyedit()
    install()
    import easyeditor

    return easyeditor


@pytest.fixture(scope="session")
def flavour() -> str:
    """The flavour of the installed EasyEdit."""
    info = find_easyedit()
    return info.flavour if info else "none"


@pytest.fixture
def release(easyeditor: Any, flavour: str) -> Any:
    """EasyEdit's 2023 release."""
    if flavour != "release-2023":
        pytest.skip(f"for EasyEdit's 2023 release; this is {flavour}")
    return easyeditor


@pytest.fixture
def main(easyeditor: Any, flavour: str) -> Any:
    """A checkout of EasyEdit's main branch."""
    if flavour != "main":
        pytest.skip(f"for EasyEdit's main branch; this is {flavour} (see test_main_branch.py)")
    return easyeditor


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary working directory, because EasyEdit writes ``./logs``."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """A tiny GPT-2 and its tokenizer."""
    return make_pair()


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Save a tiny model in a folder whose name EasyEdit recognises; return the folder."""
    root = tmp_path_factory.mktemp("models")

    def save(kind: str) -> str:
        folder = root / f"tiny-{kind}"
        if not folder.exists():
            model, tokenizer = make_pair(kind)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture
def add_method() -> Iterator[Callable[..., EditMethod]]:
    """Register methods, as a plugin does, for one test."""
    plugins: Plugins = get_plugins()
    added: list[str] = []

    def add(method: EditMethod) -> EditMethod:
        plugins.add(Plugin(method), f"test-{method.name}")
        added.append(method.name)
        install()
        return method

    yield add
    for name in added:
        plugins.remove(f"test-{name}")


@pytest.fixture
def toy(add_method: Callable[..., EditMethod]) -> Toy:
    """The toy method, registered."""
    toy = Toy()
    add_method(EditMethod("TOY", ToyHyperParams, toy.apply, batchable=True))
    return toy


@pytest.fixture
def memit(easyeditor: Any) -> Any:
    """EasyEdit's MEMIT."""
    return easyedit_method("MEMIT")


@pytest.fixture
def given_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random second moments in place of collected ones, for methods that need some."""

    def moments(model: Any, tok: Any, hparams: Any) -> dict[str, Any]:
        hparams = base_of(hparams)
        return random_moments(model, hparams) if hasattr(hparams, "mom2_dataset") else {}

    for module in (easyedit_methods, requirements):
        monkeypatch.setattr(module, "second_moments", moments)
