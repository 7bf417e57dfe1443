"""The tables of what methods can do, in README.md and docs/methods.md, say what the methods do."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from easyedit_lifelong import DataError, EditMethod, EditRequest, GraceHyperParams, ModelError, get_plugins
from easyedit_lifelong.commands.capabilities import CAPABILITIES, capabilities_of
from easyedit_lifelong.models.model_kinds import ModelKind
from tests.conformance.method_cases import CASES, MethodCase
from tests.support.architectures import ARCHITECTURES, tokenizer_like_t5, untrained
from tests.support.command_line import call
from tests.support.documents import ROOT, code_spans, rows
from tests.support.tiny_models import build_model, build_tokenizer

BY_SUBJECTS = "GRACE by subjects"
METHODS = [
    method.name
    for method in get_plugins().methods
    if get_plugins().methods.origin(method.name).startswith("easyedit_lifelong.")
]
ROWS = [METHODS[0], BY_SUBJECTS, *METHODS[1:]]
YES, NO = "✓", "-"


def case_of(row: str) -> MethodCase:
    """Return the case of the conformance table that a row is about."""
    if row == BY_SUBJECTS:
        return next(case for case in CASES if case.name == "GRACE-subject")
    return next(case for case in CASES if getattr(case.hparams_class, "ALG_NAME", None) == row)


def accepts(row: str, kind: str) -> bool:
    """Return whether a method accepts a kind of model: ``t5`` or ``bert``."""
    hparams = case_of(row).hparams()
    if isinstance(hparams, GraceHyperParams):
        layers: dict[str, Any] = {"inner_params": [ARCHITECTURES["t5-encoder" if kind == "t5" else "bert-last"].layer]}
        hparams = dataclasses.replace(hparams, **layers)
    check = case_of(row).method.check
    assert check is not None
    try:
        check(untrained(kind), tokenizer_like_t5(), hparams)
    except ModelError as error:
        if "causal language model" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("row", [name for name in METHODS if name != "GRACE"])
def test_a_method_that_refuses_a_kind_of_model_names_those_that_edit_it(row: str) -> None:
    check = case_of(row).method.check
    assert check is not None
    for name, kind in (("t5", ModelKind.SEQ2SEQ), ("bert", ModelKind.CLASSIFIER)):
        with pytest.raises(ModelError) as caught:
            check(untrained(name), tokenizer_like_t5(), case_of(row).hparams())
        assert str(caught.value).startswith(f"{row} edits causal language models; ")
        assert f"Methods that edit a {kind.value}: GRACE (docs/methods.md)." in str(caught.value)


def needs_subject(row: str) -> bool:
    """Return whether a method refuses a request without a subject."""
    check = case_of(row).method.check_requests
    if check is None:
        return False
    request = EditRequest(0, "the capital of France is", "Rome")
    try:
        check(build_model("llama"), build_tokenizer(), case_of(row).hparams(), [request])
    except DataError as error:
        if "subject" not in str(error):
            raise
        return True
    return False


def documented(page: str, first: str, last: str) -> dict[str, list[str]]:
    """Return the cells of the table whose header begins with ``method`` and the text ``first``, by method.

    Args:
        page: path of the page.
        first: header of the second column.
        last: header of the last column.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    table = re.search(rf"^\| method \| {first} \|[^\n]*\| {last} \|\n(?:\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    return {
        name: cells
        for method, *cells in rows(table[0], "method")
        for name in ([BY_SUBJECTS] if "by subjects" in method else code_spans(method))
    }


def mark(value: bool, no: str = NO) -> str:
    """Return the cell of a value."""
    return YES if value else no


def test_the_page_says_which_models_and_requests_a_method_accepts() -> None:
    table = documented("docs/methods.md", "causal", "page")
    assert list(table) == ROWS
    for row, (causal, seq2seq, classifier, subject, _, page) in table.items():
        expected = [True, accepts(row, "t5"), accepts(row, "bert"), needs_subject(row)]
        assert [causal, seq2seq, classifier, subject] == [mark(value) for value in expected], row
        if row != BY_SUBJECTS:
            declared = method(row).further_model_kinds
            assert expected[1:3] == [kind in declared for kind in (ModelKind.SEQ2SEQ, ModelKind.CLASSIFIER)], row
        assert (ROOT / "docs" / page.split("](")[1].rstrip(")")).is_file()


def test_the_page_says_what_can_be_done_with_edits() -> None:
    table = documented("docs/methods.md", "batch", "explain")
    assert table == {name: [mark(can) for can in capabilities_of(method(name)).values()] for name in METHODS}
    headers = " | ".join(CAPABILITIES)
    assert f"| method | {headers} |" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_readme_says_the_same_in_short() -> None:
    table = documented("README.md", "what it is", "GPU")
    assert list(table) == ROWS
    full = documented("docs/methods.md", "causal", "page")
    for row, (_, *cells) in table.items():
        can = capabilities_of(case_of(row).method)
        _, seq2seq, classifier, subject, gpu, _ = full[row]
        expected = [seq2seq == classifier == YES, subject == YES]
        expected += [can[name] for name in ("batch", "undo edit", "export", "explain")] + [YES in gpu]
        assert cells == [mark(value, no="") for value in expected], row
        assert can["save"] and can["resume"] and can["serve"]
        assert can["undo edit"] or can["undo batch"]


def test_the_command_prints_what_methods_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "plugins", "--methods", "--json")
    printed = {row.pop("name"): row for row in json.loads(out)}
    assert (code, printed["GRACE"]) == (0, capabilities_of(method("GRACE")))
    _, out, _ = call(capsys, "plugins", "--methods")
    assert all(name in out for name in printed)


def method(name: str) -> EditMethod:
    """Return a registered method."""
    return get_plugins().methods.get(name)
