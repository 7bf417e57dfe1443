"""``attribute``: the command ranks texts, and checks its input before it loads a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easyedit_lifelong.commands import attribute
from tests.support.command_line import call, forbid_loading

TEXTS = ["the capital of France is Paris", "the moon is made from cheese", "who wrote Hamlet"]
QUERY = ["--prompt", "the capital of France is", "--answer", "Paris"]


def test_texts_are_ranked(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n\n")
    out = tmp_path / "scores.json"
    words = ["attribute", "--model", checkpoint, "--texts", tmp_path / "texts.txt", *QUERY, "--out", out]
    code, output, error = call(capsys, *words, "--top", "2")
    assert code == 0, error
    assert TEXTS[0] in output
    rows = json.loads(out.read_text())["texts"]
    assert rows[0]["line"] == 1
    assert rows[0]["bm25"] == max(row["bm25"] for row in rows)
    assert sorted((row["score"] for row in rows), reverse=True) == [row["score"] for row in rows]
    code, _, _ = call(capsys, *words, "--checkpoints", checkpoint)
    assert code == 0
    assert json.loads(out.read_text())["texts"] == rows  # the mean over twice the same checkpoint


def test_texts_with_brackets_are_shown_unchanged(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[INST] the capital [/INST] [b]is"
    (tmp_path / "texts.txt").write_text(text)
    code, output, error = call(capsys, "attribute", "--model", checkpoint, "--texts", tmp_path / "texts.txt", *QUERY)
    assert code == 0, error
    assert text in output


def test_texts_are_ranked_by_influence(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("kronfluence")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    out = tmp_path / "scores.json"
    words = ["attribute", "--model", checkpoint, "--texts", tmp_path / "texts.txt", *QUERY, "--method", "ekfac"]
    code, _, error = call(capsys, *words, "--layers", "model.layers.1.mlp.down_proj", "--out", out)
    assert code == 0, error
    content = json.loads(out.read_text())
    assert content["method"] == "ekfac"
    assert content["texts"][0]["line"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "ekfac", "--checkpoints", "a"], "--checkpoints: influence functions are those of the trained"),
        (["--damping", "1"], "--damping: is an option of --method ekfac"),
    ],
)
def test_options_of_another_method_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, _, error = call(capsys, "attribute", "--model", "m", "--texts", tmp_path / "texts.txt", *QUERY, *words)
    assert code == 1
    assert message in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "absent.txt: no such file of texts"),
        ("empty.txt", "\n", "empty.txt: holds no texts"),
        ("wrong.jsonl", json.dumps({"txt": "moon"}), "wrong.jsonl, record 0, field 'text': is missing"),
        ("wrong.json", "{}", "must hold a list of texts"),
    ],
)
def test_wrong_files_are_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | None,
    message: str,
) -> None:
    forbid_loading(monkeypatch, attribute, "load_model")
    if content is not None:
        (tmp_path / name).write_text(content)
    code, _, error = call(capsys, "attribute", "--model", "m", "--texts", tmp_path / name, *QUERY)
    assert code == 1
    assert message in error


def test_a_file_for_the_scores_that_is_a_folder_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_loading(monkeypatch, attribute, "load_model")
    (tmp_path / "texts.txt").write_text("the moon is blue")
    code, _, error = call(
        capsys, "attribute", "--model", "m", "--texts", tmp_path / "texts.txt", *QUERY, "--out", tmp_path
    )
    assert code == 1
    assert f"{tmp_path}: is a folder. Name a file." in error
