"""The documentation site: it builds without a warning, and its generated pages say what the code says."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import easyedit_lifelong
from easyedit_lifelong import PluginHyperParams

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site_tools() -> Iterator[Any]:
    """Return a function that imports a module of ``tools/site``."""
    pytest.importorskip("griffe", reason="the extra `docs` is not installed")
    sys.path.insert(0, str(ROOT / "tools" / "site"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "tools" / "site"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return folder


def test_every_page_of_the_site_is_built_from_markdown_that_renders(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {"index.html", "grace.html", "reference/commands.html", "repository/CHANGELOG.html"} <= set(pages)
    for name, page in pages.items():
        text = re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
        unrendered = re.findall(r"^(?:- |\| |\d+\. |```).*$", text, re.MULTILINE)
        assert not unrendered, f"{name}: a list or a table needs a blank line before it"


def test_the_site_loads_nothing_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"?https?:", text), page
        assert not re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?https?:", text), page


def test_the_site_documents_every_public_name(site: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference" / "api").glob("*.html"))
    missing = [name for name in easyedit_lifelong.__all__ if f'id="easyedit_lifelong.{name}"' not in text]
    assert not missing


def test_links_that_leave_docs_lead_to_pages_of_the_site(site_tools: Any) -> None:
    links = site_tools("repository_pages").site_links
    assert links("[a](../README.md#methods)", "docs/grace.md") == "[a](index.md#methods)"
    assert links("[a](../../CHANGELOG.md)", "docs/tutorials/x.md") == "[a](../repository/CHANGELOG.md)"
    assert links("[a](docs/grace.md) ![b](docs/images/b.png)", "README.md") == "[a](grace.md) ![b](images/b.png)"
    assert links('<img src="docs/images/b.png">', "README.md") == '<img src="images/b.png">'
    assert links("[a](../docs/performance.md)", "benchmarks/README.md") == "[a](../../performance.md)"
    unchanged = "[a](https://example.org) [b](#there) [c](../hparams) `x](y`"
    assert links(unchanged, "docs/grace.md") == unchanged


def test_a_command_is_described_by_its_parser(site_tools: Any) -> None:
    parser = argparse.ArgumentParser(
        description="Edit [all] facts.", epilog="example:\n  easyedit-lifelong edit my-edits"
    )
    parser.add_argument("folder", metavar="DIR", help="folder of edits")
    parser.add_argument("-n", "--edits", type=int, default=3, metavar="N", help="first N (default %(default)s)")
    parser.add_argument("--form", choices=["a", "b"], required=True, help="a|b")
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    lines = site_tools("command_page").command_section("edit", parser).splitlines()
    assert lines[1:7] == ["## edit", "", r"Edit \[all\] facts.", "", "```sh", "easyedit-lifelong edit my-edits"]
    assert lines[-3:] == [
        "| `DIR` | folder of edits |",
        "| `-n N`, `--edits N` | first N (default 3) |",
        r"| `--form {a,b}` | a\|b (required) |",
    ]


@dataclass(kw_only=True)
class _Params(PluginHyperParams):
    """Hyperparameters of a test.

    Attributes:
        rate: the learning rate; see :class:`Adam` and ``lr``.
        norm: which norm.
        start: the first text.
    """

    ALG_NAME: ClassVar[str] = "Test"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("rate",)
    CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {"norm": ("l1", None)}

    rate: float
    norm: str | None = None
    start: str = "a\n"


@dataclass(kw_only=True)
class _OtherParams(_Params):
    """The same with another default."""

    ALG_NAME: ClassVar[str] = "Other"

    norm: str | None = "l1"


def test_hyperparameters_are_described_by_their_class(site_tools: Any) -> None:
    page = site_tools("hyperparameter_page")
    assert page.field_rows([_Params, _OtherParams], page.field_names(PluginHyperParams)) == [
        ["`rate`", "*required*", "a number, above 0", "the learning rate; see `Adam` and `lr`."],
        ["`norm`", "Test: `null`; Other: `l1`", "`l1`, `null`", "which norm."],
        ["`start`", r"`a\n`", "text", "the first text."],
    ]


def test_a_hyperparameter_without_a_description_is_an_error(site_tools: Any) -> None:
    @dataclass(kw_only=True)
    class Undescribed(PluginHyperParams):
        """No attributes."""

        secret: int = 1

    with pytest.raises(ValueError, match="Undescribed: no docstring describes secret"):
        site_tools("hyperparameter_page").field_rows([Undescribed], ())


def test_roles_in_docstrings_become_code(site_tools: Any) -> None:
    plain_roles = site_tools("docstring_roles").plain_roles
    assert plain_roles("A :class:`~a.Name`, :attr:`.x` and ``y``.") == "A `a.Name`, `x` and ``y``."
