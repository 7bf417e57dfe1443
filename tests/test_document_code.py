"""Python in the documents: it compiles, what it imports exists, and complete blocks run, on a tiny model."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import textwrap
from pathlib import Path
from typing import Any

import pytest

import easyedit_lifelong
from easyedit_lifelong import GraceHyperParams, PluginHyperParams, apply_grace_to_model, train_editor
from tests.conformance.method_cases import CASES
from tests.support.corpus import write_corpus
from tests.support.documents import DOCUMENTS, ROOT, code_blocks
from tests.support.installed_easyedit import skip_without_easyedit
from tests.support.tiny_models import build_model, build_tokenizer


def parsed(block: str) -> ast.Module:
    """Parse a block. It may be the body of a function, and have an ellipsis where code is left out."""
    return ast.parse("def block():\n" + textwrap.indent(block.replace("…", "..."), "    "))


def imports_of(block: str) -> list[tuple[str, str | None]]:
    """Return the modules that a block imports, each with a name that it imports from the module, or None."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(parsed(block)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def undefined_names(block: str) -> set[str]:
    """Return the names that a block uses and does not define."""
    defined, used = set(dir(builtins)), set()
    for node in ast.walk(parsed(block)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
    return used - defined - {name or module for module, name in imports_of(block)}


BLOCKS = [
    pytest.param(block, id=f"{document.relative_to(ROOT)}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(code_blocks(document, "python"))
]
COMPLETE = [param for param in BLOCKS if not undefined_names(param.values[0])]
"""The blocks that use only names that they define."""


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_compiles_and_imports_what_exists(block: str) -> None:
    compile(parsed(block), "block", "exec")
    for module, name in imports_of(block):
        if module.split(".")[0] != "easyedit_lifelong":
            continue  # another package, which is optional
        value = importlib.import_module(module)
        assert name is None or hasattr(value, name), f"{module} has no {name}"


def test_most_blocks_are_complete() -> None:
    assert len(COMPLETE) >= 15


FACT = {"prompt": "the capital of France is", "target_new": "Rome"}


def tiny_hparams(cls: type) -> Any:
    """Return the hyperparameters with which the conformance tests run a method."""
    return next(case for case in CASES if case.hparams_class is cls).hparams()


@pytest.fixture
def _reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to the folder of a reader: it has the sample data, a corpus, and edits made before.

    In place of SmolLM2 and its hyperparameters, there is a tiny model with those of the conformance tests.
    """
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path)
    (tmp_path / "easyedit_lifelong").symlink_to(ROOT / "easyedit_lifelong")
    edited, _ = apply_grace_to_model(build_model("llama"), build_tokenizer(), [FACT], tiny_hparams(GraceHyperParams))
    for folder in ("my-edits", "runs/mine/state"):
        edited.save_edits(folder)

    tiny = (build_model("llama"), build_tokenizer())

    def from_hparams(cls: type, name: str) -> Any:
        return dataclasses.replace(tiny_hparams(cls), model_name=tiny)

    def train_quickly(*arguments: Any, **options: Any) -> Any:
        return train_editor(*arguments, **{**options, "edits": 2})

    monkeypatch.setattr(easyedit_lifelong, "load_model", lambda name: tiny)
    monkeypatch.setattr(easyedit_lifelong, "train_editor", train_quickly)
    monkeypatch.setattr(PluginHyperParams, "from_hparams", classmethod(from_hparams))


@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize("block", COMPLETE)
def test_a_complete_block_runs(block: str) -> None:
    modules = {module for module, _ in imports_of(block)}
    if "openai" in modules:
        pytest.skip("tests/serving/ runs it against a server")
    if "easyeditor" in modules:
        skip_without_easyedit()
    exec(compile(block, "block", "exec"), {})
