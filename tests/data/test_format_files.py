"""``--format FILE.yaml``: request fields as templates of columns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.data.format_files import read_format_file
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.templates import Template, look_up
from easyedit_lifelong.errors import DataError, LifelongError
from easyedit_lifelong.runs.inputs import reader_of

FIELDS = {
    "case_id": "{id}",
    "prompt": "Q: {question} A:",
    "target_new": "{answers.0}",
    "subject": "{entity}",
    "rephrase_prompt": ["{other}", "Q: {other} A:"],
    "locality": {"near": {"prompt": "{near}", "ground_truth": "{near_answer}"}},
}
ROW = {"id": 3, "question": "Who?", "answers": ["Bo", "B."], "entity": None, "other": "By whom?"}
ROW |= {"near": "Where?", "near_answer": "Oslo"}


def _format(folder: Path, values: Any) -> str:
    path = folder / "format.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def _read(folder: Path, content: Any, fields: Any = FIELDS, name: str = "facts.json") -> list[EditRequest]:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_requests(path, reader_of(path, _format(folder, {"fields": fields})).read)


def test_columns_become_the_fields_of_a_request(tmp_path: Path) -> None:
    (request,) = _read(tmp_path, [ROW])
    assert (request.case_id, request.prompt, request.target_new) == ("3", "Q: Who? A:", "Bo")
    assert request.subject is None
    assert request.rephrase_prompts == ("By whom?", "Q: By whom? A:")
    assert request.locality == {"near": (Probe("Where?", "Oslo"),)}


def test_absent_values_make_absent_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (request,) = _read(tmp_path, [{**ROW, "other": "", "near": None, "near_answer": float("nan")}])
    assert request.rephrase_prompts == ()
    assert not request.locality.get("near")
    assert caplog.messages == []


@pytest.mark.parametrize(("name", "separator"), [("facts.csv", ","), ("facts.csv", ";"), ("facts.tsv", "\t")])
def test_tables_are_read(tmp_path: Path, name: str, separator: str) -> None:
    """Spreadsheets write a byte order mark."""
    rows = [["question", "reply"], ['"Who, or\twhat?"', "Bo"], ["Where?", "1905"]]
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in rows) + "\r\n"
    requests = _read(tmp_path, text, {"prompt": "{question}", "target_new": "{reply}"}, name)
    assert [(request.prompt, request.target_new) for request in requests] == [
        ("Who, or\twhat?", "Bo"),
        ("Where?", "1905"),
    ]


def test_semicolons_in_a_table_with_commas_are_text(tmp_path: Path) -> None:
    text = "question,reply\n;Who; what?,Bo; Al\n"
    (request,) = _read(tmp_path, text, {"prompt": "{question}", "target_new": "{reply}"}, "facts.csv")
    assert (request.prompt, request.target_new) == (";Who; what?", "Bo; Al")


def test_a_table_with_semicolons_is_read_in_the_common_form(tmp_path: Path) -> None:
    """As spreadsheets write it where the comma is the decimal separator."""
    path = tmp_path / "facts.csv"
    header = "prompt;subject;target_new;rephrase_prompt;locality_prompt;locality_ground_truth"
    rows = [
        "Die Hauptstadt von Österreich ist;Österreich;Köln;;;",
        "Pi ist;Pi;3,2;Die Zahl Pi, gerundet, ist;Der Fluss ist;blau",
    ]
    path.write_text("\r\n".join([header, *rows]) + "\r\n", encoding="utf-8-sig")
    first, second = read_requests(path, reader_of(path, None).read)
    assert (first.subject, first.target_new, first.rephrase_prompts) == ("Österreich", "Köln", ())
    assert (second.target_new, second.rephrase_prompts) == ("3,2", ("Die Zahl Pi, gerundet, ist",))


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "facts.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([ROW, {**ROW, "id": 4, "near": None}]), path)
    first, second = read_requests(path, reader_of(path, _format(tmp_path, {"fields": FIELDS})).read)
    assert (first.case_id, second.case_id, first.target_new) == ("3", "4", "Bo")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"facts\.parquet: (not valid parquet|can't be read): "):
        read_requests(path, reader_of(path, _format(tmp_path, {"fields": FIELDS})).read)


def _table(cells: dict[str, str]) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, cells)
    rows.writeheader()
    rows.writerow(cells)
    return text.getvalue()


PAIRS = [{"prompt": "Where?", "ground_truth": "Oslo"}, {"prompt": "When?", "ground_truth": "1905"}]
NEAR = (Probe("Where?", "Oslo"), Probe("When?", "1905"))


@pytest.mark.parametrize(
    ("templates", "near"),
    [
        ({"locality": "{sets}"}, {"near": NEAR}),
        ({"locality": {"near": "{pairs}"}}, {"near": NEAR}),
        ({"locality": {"near": {"prompt": "{prompts}", "ground_truth": "{answers}"}}}, {"near": NEAR}),
        (
            {"locality": {"near": {"prompt": "{pairs.1.prompt}", "ground_truth": "{pairs.1.ground_truth}"}}},
            {"near": NEAR[1:]},
        ),
        ({"locality": {"near": "{empty}"}}, {}),
        ({"locality": {"near": {"prompt": "{empty.0}", "ground_truth": "{empty.1}"}}}, {"near": ()}),
    ],
)
def test_a_cell_holds_a_list_or_an_object_as_json(tmp_path: Path, templates: Any, near: Any) -> None:
    cells = {"question": "[Who?]", "reply": "Bo", "others": '["By whom?", "[Who] is it?"]', "empty": ""}
    cells |= {"pairs": json.dumps(PAIRS), "sets": json.dumps({"near": PAIRS})}
    cells |= {"prompts": json.dumps(["Where?", "When?"]), "answers": json.dumps(["Oslo", "1905"])}
    fields = {"prompt": "{question}", "target_new": "{reply}", "rephrase_prompt": "{others}", **templates}
    (request,) = _read(tmp_path, _table(cells), fields, "facts.csv")
    assert request.locality == near
    assert (request.prompt, request.rephrase_prompts) == ("[Who?]", ("By whom?", "[Who] is it?"))


@pytest.mark.parametrize(
    ("cell", "template", "message"),
    [
        ("Where?", {"near": "{pairs}"}, "as JSON, but is 'Where?'."),
        ("3", {"near": "{pairs}"}, "as JSON, but is '3'."),
        (str(PAIRS), {"near": "{pairs}"}, "but not valid JSON"),
        (str(PAIRS), "{pairs}", "Python's own notation is not JSON: write the cell with json.dumps."),
        ("Where?", {"near": {"prompt": "{pairs.0}", "ground_truth": "{reply}"}}, "field 'pairs.0': must hold a list"),
        ("[" * 100_000, {"near": "{pairs}"}, "but not valid JSON"),
    ],
)
def test_a_cell_that_is_no_json_is_refused(tmp_path: Path, cell: str, template: Any, message: str) -> None:
    fields = {"prompt": "{question}", "target_new": "{reply}", "locality": template}
    with pytest.raises(DataError) as caught:
        _read(tmp_path, _table({"question": "Who?", "reply": "Bo", "pairs": cell}), fields, "facts.csv")
    assert "record 0, field 'pairs" in str(caught.value)
    assert message in str(caught.value)


def test_a_column_that_no_record_has_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a warning, the run would have no paraphrases, and nothing would say so."""
    fields = {**FIELDS, "rephrase_prompt": ["{other}", "{othr}"], "portability": {"far": "{far.0}"}}
    _read(tmp_path, [ROW, {**ROW, "id": 4, "entity": "Bo"}], fields)
    missing, unlike = caplog.messages
    assert "no record has the column 'othr' (" in missing
    assert missing.endswith("fields.rephrase_prompt). Did you mean 'other'?")
    assert "no record has the column 'far.0' (" in unlike
    caplog.clear()
    _read(tmp_path, [ROW, {**ROW, "id": 4, "othr": "Who is it?", "far": None}], fields)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. Its first row must name the columns."),
        ("question,,reply\n", "column 2 has no name"),
        ("question,question\n", "two columns have the name 'question'"),
        ("question,reply\nWho?\n", "record 0 (line 2): has 1 value for 2 columns"),
        ('question,reply\n"Who?" x,y\n', "line 2: not valid CSV"),
        ('question,reply\n"Who?,y\n', "not valid CSV: unexpected end of data"),
        ("question,reply\n", "holds no records"),
        ("questions,reply\nWho?,Bo\n", "column of 'prompt'. Did you mean 'questions'?"),
        ("question,reply\n,Bo\n", "record 0, field '{question}': is missing."),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, text, {"prompt": "{question}", "target_new": "{reply}"}, "facts.csv")
    assert str(caught.value).startswith(f"{tmp_path}/facts.csv")
    assert message in str(caught.value)


def test_a_list_in_a_text_is_refused_with_its_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 0, field 'question': must be text, not a list"):
        _read(tmp_path, [{**ROW, "question": ["Who?"]}])
    with pytest.raises(DataError, match=r"record 0, field '\{entity\}': must be text, not a list"):
        _read(tmp_path, [{**ROW, "entity": ["x"]}])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("- a", "must hold 'fields'"),
        ("a: [", "not valid YAML"),
        ({}, "needs either 'fields'"),
        ({"fields": {}, "relations": {}}, "needs either 'fields'"),
        ({"field": FIELDS}, "unknown key 'field'. Did you mean 'fields'?"),
        ({"fields": FIELDS, "task": "q"}, "task: 'q' is none of"),
        ({"fields": FIELDS, "columns": {}}, "columns: belongs to 'relations'"),
        ({"fields": ["prompt"]}, "fields: must map request fields"),
        ({"fields": {"prompt": "{a}"}}, "fields.target_new: is missing"),
        ({"fields": {**FIELDS, "prompt": None}}, "fields.prompt: is missing"),
        ({"fields": {**FIELDS, "promt": "{a}"}}, "fields.promt: is no field of a request. Did you mean 'prompt'?"),
        ({"fields": {**FIELDS, "prompt": "question"}}, "fields.prompt: 'question' has no column. Write it in braces"),
        ({"fields": {**FIELDS, "prompt": "{question"}}, "fields.prompt: '{question': '{' at position 0"),
        ({"fields": {**FIELDS, "prompt": "a}{q}"}}, "'}' at position 1"),
        ({"fields": {**FIELDS, "subject": 5}}, "fields.subject: must be a template"),
        ({"fields": {**FIELDS, "locality": {"a": {"prompt": "{}"}}}}, "fields.locality.a.prompt: '{}'"),
    ],
)
def test_an_invalid_format_file_is_refused_with_its_key(tmp_path: Path, values: Any, message: str) -> None:
    path = _format(tmp_path, values)
    with pytest.raises(LifelongError) as caught:
        read_format_file(Path(path))
    assert str(caught.value).startswith(path)
    assert message in str(caught.value)


def test_a_missing_format_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.yaml: no such format file\.") as caught:
        reader_of("facts.json", str(tmp_path / "gone.yaml"))
    message = str(caught.value)
    assert "docs/data.md" in message
    assert all(name in message for name in ("json", "zsre", "counterfact"))


def test_a_format_file_has_a_task(tmp_path: Path) -> None:
    reader = read_format_file(Path(_format(tmp_path, {"fields": FIELDS, "task": "generation"})))
    assert reader.task == "generation"


def test_doubled_braces_are_braces() -> None:
    assert Template.parse("{{{a}}} {{}}").fill({"a": "x"}.__getitem__) == "{x} {}"


def test_nested_values_are_found_by_dots() -> None:
    record = {"a.b": 1, "a": {"b": 2, "c": [{"d": 3}]}}
    assert [look_up(record, name) for name in ("a.b", "a.c.0.d", "a.c.1", "a.x.y", "b")] == [1, 3, None, None, None]
