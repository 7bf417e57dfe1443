"""Edits to the Hub and back: the real client, and a Hub of this machine."""

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
from tests.support.saved_edits import both, coachhook, equal, grace, logits_of
from tests.support.tiny_models import build_model


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    """Four edits of a tiny Llama by CoachHook, after GRACE's five."""
    model = build_model("llama")
    both(model, "llama")
    save_edits(model, tmp_path / "edits")
    return tmp_path / "edits"


def test_there_and_back_bitwise(hub: Hub, edits: Path, tmp_path: Path) -> None:
    address = push_edits(edits, REPO)
    repository = hub.repositories[REPO]
    assert address == f"{hub.url}/{REPO}/commit/{repository.branches['main']}"
    assert repository.private, "edits.json holds every prompt; who shall read them is the user's to say"
    files = repository.commits[repository.branches["main"]]
    assert sorted(files) == [CARD, INDEX, TENSORS]
    assert (files[INDEX], files[TENSORS]) == ((edits / INDEX).read_bytes(), (edits / TENSORS).read_bytes())
    assert repository.messages[-1] == "9 edits of LlamaForCausalLM"

    models = [build_model("llama"), build_model("llama")]
    load_edits(models[0], edits)
    rollback = load_edits(models[1], f"hub:{REPO}")
    assert equal(logits_of(models[1]), logits_of(models[0]))
    assert len(rollback.results) == 9
    assert ("GET", f"/{REPO}/resolve/main/{CARD}") not in hub.asked, "nothing is fetched but the two files"


def test_public_a_branch_a_message_and_a_token(hub: Hub, edits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_pushed_again_it_is_the_next_commit_and_the_old_can_still_be_had(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    first = hub.repositories[REPO].branches["main"]
    model = build_model("llama")
    grace(model, "llama")
    save_edits(model, tmp_path / "other")
    push_edits(tmp_path / "other", REPO)
    assert len(json.loads((pull_edits(REPO) / INDEX).read_text())["parts"]) == 1
    assert len(json.loads((pull_edits(f"{REPO}@{first}") / INDEX).read_text())["parts"]) == 2


def test_the_page(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    page = hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]][CARD].decode()
    front = yaml.safe_load(page.split("---\n")[1])
    assert front == {"tags": ["knowledge-editing", "easyedit-lifelong", "grace", "coachhook"]}
    assert "5 edits by GRACE and 4 edits by CoachHook" in page
    assert f'load_edits(model, "hub:{REPO}", tokenizer)' in page
    assert page.count("\n| ") == 6, "a head, and five edits at most"
    assert "4 more are in `edits.json`" in page


def test_a_page_that_somebody_wrote_stays(hub: Hub, edits: Path) -> None:
    push_edits(edits, REPO)
    repository = hub.repositories[REPO]
    for written, kept in (("# Mine", True), (f"{MARK} old", False)):
        repository.add("main", {CARD: written.encode()}, "a page")
        push_edits(edits, REPO)
        now = repository.commits[repository.branches["main"]][CARD].decode()
        assert (now == written) is kept


def test_a_page_says_no_more_than_it_must(tmp_path: Path) -> None:
    from easyedit_lifelong.edits.card import edits_card

    edit = {"prompt": "a | b\n<script> [x](y)", "target_new": "`z`"}
    index = {"model": {"name": "/home/somebody/secret/llama"}, "parts": [{"method": "GRACE", "edits": [edit]}]}
    page = edits_card(index, REPO)
    assert "somebody" not in page
    assert r"| a \| b \<script\> \[x\](y) | \`z\` |" in page
    assert "1 edit by GRACE" in page
    index["model"] = {"name": "meta-llama/Llama-3.2-3B"}
    assert yaml.safe_load(edits_card(index, REPO).split("---\n")[1])["base_model"] == "meta-llama/Llama-3.2-3B"


def test_a_copy_in_a_folder(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    folder = copy_edits(REPO, tmp_path / "mine")
    assert sorted(path.name for path in folder.iterdir()) == [INDEX, TENSORS]
    assert not any(path.is_symlink() for path in folder.iterdir())
    load_edits(build_model("llama"), folder)
    with pytest.raises(RunError, match="nothing will be overwritten"):
        copy_edits(REPO, folder)


def test_a_folder_that_was_killed_while_it_was_written_arrives_whole(hub: Hub, edits: Path) -> None:
    (edits / TENSORS).rename(edits / f"{TENSORS}.new")
    push_edits(edits, REPO)
    assert (pull_edits(REPO) / TENSORS).is_file()


def test_what_is_damaged_is_neither_pushed_nor_taken(hub: Hub, edits: Path, tmp_path: Path) -> None:
    push_edits(edits, REPO)
    whole = (edits / TENSORS).read_bytes()
    (edits / TENSORS).write_bytes(whole[:-1])
    before = list(hub.asked)
    with pytest.raises(RunError, match=r"isn't what edits\.json was written with"):
        push_edits(edits, REPO)
    assert hub.asked == before, "refused before anybody is asked"
    hub.repositories[REPO].add("main", {TENSORS: whole[:-1]}, "damage")
    model = build_model("llama")
    unedited = logits_of(model)
    for take in (
        lambda: pull_edits(REPO),
        lambda: load_edits(model, f"hub:{REPO}"),
        lambda: copy_edits(REPO, tmp_path / "x"),
    ):
        with pytest.raises(RunError, match=r"isn't what edits\.json was written with"):
            take()
    assert equal(logits_of(model), unedited)
    assert not (tmp_path / "x").exists()


def test_what_the_hub_refuses(hub: Hub, edits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_edits(edits, REPO)
    told = message(pull_edits, "owner/nothing")
    assert told.startswith("hub:owner/nothing: there is no such repository, or it is private and you have no access.")
    assert "hf auth login" in told
    assert message(pull_edits, f"{REPO}@gone") == f"hub:{REPO}@gone: the repository has no such branch, tag or commit"
    assert "you have no permission for this, or aren't logged in" in message(push_edits, edits, "theirs/edits")
    hub.repositories[REPO].gated = True
    assert "this repository is gated" in message(pull_edits, REPO)
    hub.repositories[REPO].gated = False
    hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]].pop(TENSORS)
    assert "holds no saved edits" in message(pull_edits, REPO)
    monkeypatch.delenv("HF_TOKEN")
    assert "aren't logged in" in message(push_edits, edits, REPO)
    assert "it is private and you have no access" in message(pull_edits, REPO)


def message(do: Any, *arguments: Any) -> str:
    with pytest.raises(HubError) as caught:
        do(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["hub:", "name", "a/b/c", "a b/c", "owner/name@", "../x/y", "owner/name@a b"])
def test_names_that_mean_nothing(name: str) -> None:
    assert "Write hub:OWNER/NAME or hub:OWNER/NAME@REVISION." in message(pull_edits, name)


def test_without_a_network_the_cache_will_do(hub: Hub, edits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_edits(edits, REPO)
    fetched = pull_edits(REPO)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    asked = list(hub.asked)
    began = time.monotonic()
    assert pull_edits(REPO) == fetched
    assert "can't be reached, and its cache on this machine has no copy" in message(pull_edits, "owner/other")
    assert "127.0.0.1 can't be reached" in message(push_edits, edits, REPO)
    assert time.monotonic() - began < 5
    assert hub.asked == asked


def test_without_the_client(edits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "Run: pip install huggingface_hub" in message(push_edits, edits, REPO)
    assert "Run: pip install huggingface_hub" in message(pull_edits, REPO)


def test_a_folder_that_is_called_like_a_repository_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    coachhook(model, "llama")
    monkeypatch.chdir(tmp_path)
    save_edits(model, "owner/name")
    assert edits_folder("owner/name") == Path("owner/name")
    load_edits(build_model("llama"), "owner/name")
