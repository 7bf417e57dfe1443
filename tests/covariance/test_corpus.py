"""A corpus is found and read by file, folder, name or list; anything else is refused."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.covariance.corpus import check_obtainable, find_corpus
from easyedit_lifelong.covariance.documents import text_field
from easyedit_lifelong.errors import DataError
from tests.support.missing_packages import hide_package

TEXTS = ["one two", "three\nfour", "fünf [six]"]


def _documents(path: Path) -> list[str]:
    return list(find_corpus(path).open())


def test_blank_lines_end_documents_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("\n \none two\n\n\nthree\nfour\n \t \nfünf [six]", encoding="utf-8")
    assert _documents(path) == TEXTS


def test_without_blank_lines_every_line_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("one\ntwo\nthree\n\n")
    assert _documents(path) == ["one", "two", "three"]


def test_texts_and_objects_of_json_lines_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    lines = [json.dumps({"text": TEXTS[0], "title": "x"}), "", json.dumps({"body": TEXTS[1], "id": 3})]
    path.write_text("\n".join([*lines, json.dumps(TEXTS[2])]), encoding="utf-8")
    assert _documents(path) == TEXTS


def test_texts_and_objects_of_a_json_list_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps([TEXTS[0], {"text": TEXTS[1]}, {"only": TEXTS[2]}]))
    assert _documents(path) == TEXTS


def test_the_text_column_of_a_parquet_file_holds_the_documents(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"id": [1, 2, 3, 4], "text": [*TEXTS, None]}), tmp_path / "c.parquet")
    assert _documents(tmp_path / "c.parquet") == [*TEXTS, ""]
    parquet.write_table(arrow.table({"a": ["x"], "b": ["y"]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d.parquet: has no column 'text'.*a, b"):
        _documents(tmp_path / "d.parquet")
    (tmp_path / "e.parquet").write_text("no")
    with pytest.raises(DataError, match=r"e.parquet: is not a readable Parquet file"):
        _documents(tmp_path / "e.parquet")


def test_a_folder_joins_its_corpus_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("1\n\n2")
    (tmp_path / "b.jsonl").write_text('"3"\n')
    (tmp_path / "sub" / "c.json").write_text('["4", "5"]')
    (tmp_path / "ignored.bin").write_bytes(b"\0")
    documents = find_corpus(tmp_path).open()
    assert (len(documents), list(documents)) == (5, ["1", "2", "3", "4", "5"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", '{"text": "a"}\n{"text": \n', "c.jsonl, record 1: is not valid JSON"),
        ("c.jsonl", '{"text": 3}', "c.jsonl, record 0: has no field 'text'"),
        ("c.jsonl", '{"a": "x", "b": "y"}', r"fields: a, b"),
        ("c.jsonl", "[1]", "record 0: must be a text or an object"),
        ("c.json", "{}", "must hold a list"),
        ("c.json", "[", "c.json: is not valid JSON"),
        ("c.json", "[1]", "c.json, record 0"),
    ],
)
def test_an_invalid_record_is_refused_with_its_number(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        _documents(tmp_path / name)


def test_a_document_that_is_not_utf8_is_refused_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"fine\n\nf\xfcnf")
    with pytest.raises(DataError, match=r"c.txt, document 1: is not UTF-8"):
        _documents(tmp_path / "c.txt")


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(" \n\n")
    with pytest.raises(DataError, match=r"c.txt: holds no documents"):
        check_obtainable(find_corpus(tmp_path / "c.txt"))


@pytest.mark.parametrize("name", ["nowhere.txt", "./nowhere", "~/nowhere-at-all"])
def test_a_missing_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such corpus file or folder"):
        find_corpus(name)


def test_folders_without_corpus_files_and_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no corpus file"):
        find_corpus(tmp_path)
    (tmp_path / "c.csv").write_text("x")
    with pytest.raises(DataError, match=r"can't read a corpus from '.csv'"):
        find_corpus(tmp_path / "c.csv")
    with pytest.raises(DataError, match="is no file, folder or dataset"):
        find_corpus("what is this?")


def test_the_identity_of_a_file_depends_on_its_content_only(tmp_path: Path) -> None:
    a, b = tmp_path / "a" / "c.txt", tmp_path / "b" / "c.txt"
    for path, text in ((a, "x\n\ny"), (b, "x\n\nz")):
        path.parent.mkdir()
        path.write_text(text)
    assert find_corpus(a).identity == find_corpus(str(a)).identity != find_corpus(b).identity
    assert find_corpus(a).label == "c"


def test_a_name_becomes_dataset_and_config() -> None:
    assert find_corpus("wikipedia").identity == {
        "kind": "dataset",
        "name": "wikimedia/wikipedia",
        "config": "20231101.en",
    }
    assert find_corpus("wikitext").identity["config"] == "wikitext-103-raw-v1"
    corpus = find_corpus("some/thing:small")
    assert (corpus.label, corpus.identity["name"], corpus.identity["config"]) == (
        "some_thing_small",
        "some/thing",
        "small",
    )
    assert find_corpus("self").self_sampled and find_corpus("self-sampled").label == "self-sampled"


def test_a_list_of_texts_is_a_corpus() -> None:
    corpus = find_corpus(TEXTS)
    assert (list(corpus.open()), corpus.label) == (TEXTS, "texts")
    assert find_corpus(TEXTS[:2]).identity != corpus.identity
    for invalid in ([], ["a", 3]):
        with pytest.raises(DataError, match="a list must hold texts"):
            find_corpus(invalid)  # type: ignore[arg-type]


def test_a_dataset_is_loaded_by_its_full_name(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    calls = []

    def load(name: str, config: str | None) -> Any:
        calls.append((name, config))
        return datasets.DatasetDict({"train": datasets.Dataset.from_dict({"id": ["a", "b", "c"], "text": TEXTS})})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(find_corpus("wikitext").open()) == TEXTS
    assert calls == [("Salesforce/wikitext", "wikitext-103-raw-v1")]


def test_an_unreachable_dataset_is_refused_with_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load(name: str, config: str | None) -> Any:
        raise ConnectionError("Couldn't reach the Hub.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"(?s)wikimedia/wikipedia.*Couldn't reach the Hub\. Without.*'self'.*folder"):
        find_corpus("wikipedia").open()


@pytest.mark.parametrize(("package", "corpus"), [("datasets", "wikipedia"), ("pyarrow", "c.parquet")])
def test_a_missing_package_is_refused_with_the_install_command(
    package: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_package(package, monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("c.parquet").write_text("")
    with pytest.raises(DataError, match=f"pip install {package}"):
        check_obtainable(find_corpus(corpus))


def test_reading_one_document_reads_only_its_part_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.txt"
    path.write_text("\n\n".join(f"document {i}" for i in range(5000)))
    documents = find_corpus(path).open()
    real_open, sizes = builtins.open, []

    class Counting:
        """A file that records how much is read from it."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, position: int) -> None:
            self.file.seek(position)

        def read(self, size: int) -> bytes:
            sizes.append(size)
            return self.file.read(size)

    monkeypatch.setattr(Path, "open", lambda self, mode="r": Counting(real_open(self, mode)))
    assert documents[4321] == "document 4321"
    assert sum(sizes) < 20


def test_the_text_field_is_found_by_name_or_as_the_only_text() -> None:
    assert text_field({"title": True, "text": True}) == "text"
    assert text_field({"id": False, "content": True}) == "content"
    assert text_field({"a": True, "b": True}) is None
