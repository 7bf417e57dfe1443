"""Edits pushed to a Hub and pulled from it: the real client, and a Hub on this machine."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import load_edits, pull_edits, push_edits, save_edits
from easyedit_lifelong.edits.card import CARD, MARK
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS
from easyedit_lifelong.edits.edits_hub import copy_edits, edits_folder
from easyedit_lifelong.errors import HubError, RunError
from tests.support.local_hub import REPO, TOKEN, Hub
from tests.support.saved_edits import coachhook, equal, grace, grace_and_coachhook, logits_of
from tests.support.tiny_models import build_model


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    """Four edits of a tiny Llama by CoachHook, after GRACE's five."""
    model = build_model("llama")
    grace_and_coachhook(model, "llama")
    save_edits(model, tmp_path / "edits")
    return tmp_path / "edits"


def test_pushed_edits_load_bitwise_equal(hub: Hub, edits: Path, tmp_path: Path) -> None:
    address = push_edits(edits, REPO)
    repository = hub.repositories[REPO]
    assert address == f"{hub.url}/{REPO}/commit/{repository.branches['main']}"
    assert repository.private, "a repository must be private by default: edits.json holds every prompt"
    files = repository.commits[repository.branches["main"]]
    assert sorted(files) == [CARD, INDEX, TENSORS]
    assert (files[INDEX], files[TENSORS]) == ((edits / INDEX).read_bytes(), (edits / TENSORS).read_bytes())
    assert repository.messages[-1] == "9 edits of LlamaForCausalLM"

    models = [build_model("llama"), build_model("llama")]
    load_edits(models[0], edits)
    rollback = load_edits(models[1], f"hub:{REPO}")
    assert equal(logits_of(models[1]), logits_of(models[0]))
    assert len(rollback.results) == 9
    assert ("GET", f"/{REPO}/resolve/main/{CARD}") not in hub.received_requests, (
        "only the two files of the edits must be fetched"
    )


def test_push_takes_visibility_revision_message_and_token(
    hub: Hub, edits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    push_edits(edits, f"hub:{REPO}", private=False, token=TOKEN, revision="try/two", commit_message="two")
    repository = hub.repositories[REPO]
    assert not repository.private
    assert repository.messages == ["initial commit", "two"]
    assert repository.commits[repository.branches["main"]] == {}
    with pytest.raises(HubError, match="holds no saved edits"):
        pull_edits(REPO)
    for folder in (pull_edits(REPO, "try/two"), pull_edits(f"hub:{REPO}@try/two"), edits_folder(f"hub:{REPO}@try/two")):
        assert folder.name == repository.branches["try/two"]
    assert pull_edits(REPO, repository.branches["try/two"]) == folder


def test_a_second_push_is_a_new_commit_and_keeps_the_first(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    first = hub.repositories[REPO].branches["main"]
    model = build_model("llama")
    grace(model, "llama")
    save_edits(model, tmp_path / "other")
    push_edits(tmp_path / "other", REPO)
    assert len(json.loads((pull_edits(REPO) / INDEX).read_text())["parts"]) == 1
    assert len(json.loads((pull_edits(f"{REPO}@{first}") / INDEX).read_text())["parts"]) == 2


def test_the_card_lists_methods_and_edits(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    card = hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]][CARD].decode()
    front_matter = yaml.safe_load(card.split("---\n")[1])
    assert front_matter == {"tags": ["knowledge-editing", "easyedit-lifelong", "grace", "coachhook"]}
    assert "5 edits by GRACE and 4 edits by CoachHook" in card
    assert f'load_edits(model, "hub:{REPO}", tokenizer)' in card
    assert card.count("\n| ") == 6, "the table must have a head and at most five edits"
    assert "4 more are in `edits.json`" in card


def test_only_a_card_written_by_hand_is_kept(hub: Hub, edits: Path) -> None:
    push_edits(edits, REPO)
    repository = hub.repositories[REPO]
    for old_card, kept in (("# Mine", True), (f"{MARK} old", False)):
        repository.add("main", {CARD: old_card.encode()}, "a page")
        push_edits(edits, REPO)
        new_card = repository.commits[repository.branches["main"]][CARD].decode()
        assert (new_card == old_card) is kept


def test_the_card_hides_local_paths_and_escapes_markup(tmp_path: Path) -> None:
    from easyedit_lifelong.edits.card import edits_card

    edit = {"prompt": "a | b\n<script> [x](y)", "target_new": "`z`"}
    index = {"model": {"name": "/home/somebody/secret/llama"}, "parts": [{"method": "GRACE", "edits": [edit]}]}
    card = edits_card(index, REPO)
    assert "somebody" not in card
    assert r"| a \| b \<script\> \[x\](y) | \`z\` |" in card
    assert "1 edit by GRACE" in card
    index["model"] = {"name": "meta-llama/Llama-3.2-3B"}
    assert yaml.safe_load(edits_card(index, REPO).split("---\n")[1])["base_model"] == "meta-llama/Llama-3.2-3B"


def test_copy_edits_writes_plain_files_and_overwrites_nothing(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    folder = copy_edits(REPO, tmp_path / "mine")
    assert sorted(path.name for path in folder.iterdir()) == [INDEX, TENSORS]
    assert not any(path.is_symlink() for path in folder.iterdir())
    load_edits(build_model("llama"), folder)
    with pytest.raises(RunError, match="nothing will be overwritten"):
        copy_edits(REPO, folder)


def test_a_folder_whose_writing_was_interrupted_is_pushed_completely(hub: Hub, edits: Path) -> None:
    (edits / TENSORS).rename(edits / f"{TENSORS}.new")
    push_edits(edits, REPO)
    assert (pull_edits(REPO) / TENSORS).is_file()


def test_damaged_edits_are_neither_pushed_nor_pulled(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    tensor_bytes = (edits / TENSORS).read_bytes()
    (edits / TENSORS).write_bytes(tensor_bytes[:-1])
    requests_before = list(hub.received_requests)
    with pytest.raises(RunError, match=r"isn't what edits\.json was written with"):
        push_edits(edits, REPO)
    assert hub.received_requests == requests_before, "damaged edits must be refused before any request to the Hub"
    hub.repositories[REPO].add("main", {TENSORS: tensor_bytes[:-1]}, "damage")
    model = build_model("llama")
    unedited = logits_of(model)
    for pull in (
        lambda: pull_edits(REPO),
        lambda: load_edits(model, f"hub:{REPO}"),
        lambda: copy_edits(REPO, tmp_path / "x"),
    ):
        with pytest.raises(RunError, match=r"isn't what edits\.json was written with"):
            pull()
    assert equal(logits_of(model), unedited)
    assert not (tmp_path / "x").exists()


def test_refusals_of_the_hub_are_explained(hub: Hub, edits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_edits(edits, REPO)
    message = error_of(pull_edits, "owner/nothing")
    assert message.startswith(
        "hub:owner/nothing: there is no such repository, or it is private and you have no access."
    )
    assert "hf auth login" in message
    assert error_of(pull_edits, f"{REPO}@gone") == f"hub:{REPO}@gone: the repository has no such branch, tag or commit"
    assert "you have no permission for this, or aren't logged in" in error_of(push_edits, edits, "theirs/edits")
    hub.repositories[REPO].gated = True
    assert "this repository is gated" in error_of(pull_edits, REPO)
    hub.repositories[REPO].gated = False
    hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]].pop(TENSORS)
    assert "holds no saved edits" in error_of(pull_edits, REPO)
    monkeypatch.delenv("HF_TOKEN")
    assert "aren't logged in" in error_of(push_edits, edits, REPO)
    assert "it is private and you have no access" in error_of(pull_edits, REPO)


def error_of(function: Any, *arguments: Any) -> str:
    with pytest.raises(HubError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["hub:", "name", "a/b/c", "a b/c", "owner/name@", "../x/y", "owner/name@a b"])
def test_an_invalid_repository_name_is_refused(name: str) -> None:
    assert "Write hub:OWNER/NAME or hub:OWNER/NAME@REVISION." in error_of(pull_edits, name)


def test_without_a_network_pull_uses_the_cache(hub: Hub, edits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_edits(edits, REPO)
    fetched = pull_edits(REPO)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    requests_before = list(hub.received_requests)
    started = time.monotonic()
    assert pull_edits(REPO) == fetched
    assert "can't be reached, and its cache on this machine has no copy" in error_of(pull_edits, "owner/other")
    assert "127.0.0.1 can't be reached" in error_of(push_edits, edits, REPO)
    assert time.monotonic() - started < 5
    assert hub.received_requests == requests_before


def test_a_missing_client_is_reported_with_the_command_that_installs_it(
    edits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "Run: pip install huggingface_hub" in error_of(push_edits, edits, REPO)
    assert "Run: pip install huggingface_hub" in error_of(pull_edits, REPO)


def test_an_existing_folder_takes_precedence_over_a_repository_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("llama")
    coachhook(model, "llama")
    monkeypatch.chdir(tmp_path)
    save_edits(model, "owner/name")
    assert edits_folder("owner/name") == Path("owner/name")
    load_edits(build_model("llama"), "owner/name")
