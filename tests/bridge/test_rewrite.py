"""The rules by which EasyEdit's source is rewritten, on small pieces of source."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from easyedit_lifelong.bridge.placeholders import MissingPackageError, Placeholder, importing
from easyedit_lifelong.bridge.rewrite import RUNTIME, defined_names, rewrite
from easyedit_lifelong.bridge.runtime import Runtime


def run(source: str, **names: Any) -> dict[str, Any]:
    """Execute a rewritten module on a machine without CUDA, and return its namespace."""
    namespace: dict[str, Any] = {"__name__": "easyeditor.piece", **names}
    namespace[RUNTIME] = Runtime(namespace)
    with importing():
        exec(compile(rewrite(source), "piece.py", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def _no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two CUDA devices."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


class MovableStub:
    """A stub for a tensor or model that can be moved to a device."""

    device = "cpu"

    def to(self, device: Any) -> Any:
        """Return the device."""
        return device

    def cuda(self, index: int = 0) -> str:
        """Return the CUDA device."""
        return f"real cuda {index}"


@pytest.mark.parametrize(
    "expression",
    [
        'f"cuda:{x}"',
        '"cuda:" + str(x)',
        'y.to(f"cuda:{x}")',
        'y.to("cuda")',
        "y.cuda()",
        "y.to(device)",
        "y.to(h.device)",
    ],
)
@pytest.mark.parametrize("x", [0, "0", 3])
def test_cuda_devices_become_the_cpu_without_cuda(expression: str, x: Any) -> None:
    class H:
        device = x

    assert run(f"result = {expression}", x=x, y=MovableStub(), device=x, h=H)["result"] == "cpu"


@pytest.mark.parametrize(("x", "device"), [(1, "cuda:1"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_an_available_device_is_kept(two_gpus: None, x: Any, device: str) -> None:
    assert run('result = f"cuda:{x}"', x=x)["result"] == device


def test_an_unavailable_device_is_refused_with_the_available_ones(two_gpus: None) -> None:
    with pytest.raises(ValueError, match=r"cuda:0, cuda:1, cpu"):
        run('result = f"cuda:{x}"', x=7)


@pytest.mark.parametrize("device", ["cpu", None, "cuda:0", True])
def test_to_keeps_complete_device_names(device: Any) -> None:
    assert run("result = y.to(device)", y=MovableStub(), device=device)["result"] is device


@pytest.mark.parametrize(
    "source",
    [
        'result = f"cuda:{x}:{x}"',
        'result = f"on cuda:{x}"',
        "result = y.cuda(1)",
        'result = y.to("cpu")',
        "result = x.split(':')[1]",
    ],
)
def test_expressions_that_are_not_devices_are_unchanged(source: str) -> None:
    assert ast.dump(rewrite(source)) == ast.dump(ast.parse(source))


@pytest.mark.parametrize(("device", "index"), [("cpu", "cpu"), ("cuda:1", "1"), ("mps", "mps")])
def test_the_index_of_a_device_without_one_is_its_name(device: str, index: str) -> None:
    class Model:
        pass

    Model.device = device  # type: ignore[attr-defined]
    assert run("result = str(model.device).split(':')[1]", model=Model)["result"] == index


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("import no_such_package", "no_such_package"),
        ("import no_such_package.part", "no_such_package"),
        ("import no_such_package.part as part", "part"),
        ("from no_such_package import thing", "thing"),
        ("from no_such_package.part import thing as other", "other"),
    ],
)
def test_importing_a_missing_package_binds_a_placeholder(statement: str, name: str) -> None:
    namespace = run(statement)
    assert isinstance(namespace[name], Placeholder)
    with pytest.raises(MissingPackageError, match="pip install no_such_package") as caught:
        namespace[name]()
    assert caught.value.package == "no_such_package"


def test_only_missing_names_become_placeholders() -> None:
    namespace = run("import json, no_such_package\nfrom yaml import safe_load, no_such_name, nodes")
    import json

    import yaml

    assert namespace["json"] is json
    assert namespace["safe_load"] is yaml.safe_load
    assert namespace["nodes"] is yaml.nodes
    with pytest.raises(MissingPackageError, match=r"no_such_name.*doesn't provide it.*another version"):
        namespace["no_such_name"]()


def test_a_missing_submodule_leaves_the_real_package() -> None:
    import yaml

    assert run("import yaml.no_such_part")["yaml"] is yaml


def test_imports_in_try_blocks_and_functions_are_unchanged() -> None:
    source = "try:\n    import no_such_package\nexcept ImportError:\n    no_such_package = None"
    assert run(source)["no_such_package"] is None
    with pytest.raises(ModuleNotFoundError):
        run("def f():\n    import no_such_package")["f"]()


@pytest.mark.parametrize(
    "source",
    [
        "logging.basicConfig(level=1)",
        "seed_everything(42)",
        "torch.manual_seed(1)",
        "os.environ['X_TEST'] = '1'",
    ],
)
def test_module_level_side_effects_are_removed(source: str) -> None:
    run(source)  # each raises a NameError if it runs


def test_side_effects_inside_functions_are_kept() -> None:
    seeds: list[int] = []
    run("def f():\n    seed_everything(42)", seed_everything=seeds.append)["f"]()
    assert seeds == [42]


def test_line_numbers_are_kept() -> None:
    source = 'import no_such_package\n\n\nx = (\n    f"cuda:{y}"\n)\n'
    with pytest.raises(NameError) as caught:
        run(source)
    assert caught.traceback[-1].lineno + 1 == 5


def test_future_imports_and_the_docstring_are_kept() -> None:
    namespace = run('"""Doc."""\nfrom __future__ import annotations\nimport no_such_package\ndef f(x: nope): ...')
    assert namespace["__doc__"] == "Doc."


def test_defined_names_are_the_bindings_at_module_level() -> None:
    source = "import a.b\nfrom c import d as e, f\nfrom g import *\nx, (y, z) = 1, (2, 3)\nw: int = 1\ndef h(): i = 1\n"
    assert defined_names(source + "class J: k = 1") == ["a", "e", "f", "x", "y", "z", "w", "h", "J"]
