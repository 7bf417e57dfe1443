"""Datasets are loaded from the Hub by name, and refused at once where it can't be reached."""

from __future__ import annotations

import importlib
import json
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.readers import read_hallucination, read_json, read_requests, read_zsre
from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.data.retention import read_retention
from easyedit_lifelong.errors import DataError
from tests.support.missing_packages import hide_package

datasets = pytest.importorskip("datasets", reason="the package datasets isn't installed (extra: corpora)")
FACTS = [{"prompt": f"question {n}", "target_new": f"answer {n}", "case_id": 10 + n} for n in range(3)]
ZSRE = {
    "subject": "Finland",
    "src": "What is the capital of Finland?",
    "rephrase": "Finland's capital?",
    "alt": "Tampere",
    "answers": ["Helsinki"],
    "loc": "nq question: who wrote it",
    "loc_ans": "Charlotte",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a folder of data files, and return its name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(**files: list[Any]) -> str:
        data = tmp_path / "data"
        data.mkdir()
        for name, records in files.items():
            (data / f"{name}.json").write_text(json.dumps(records))
        return f"hub:{data}"

    return write


@pytest.fixture
def hub_holds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """Replace what the Hub gives; return the list of its calls."""
    monkeypatch.setattr(hub, "unreachable_host", lambda: None)
    calls: list[Any] = []

    def holds(content: Any) -> list[Any]:
        def load(name: str, config: str | None, **options: Any) -> Any:
            calls.append((name, config, options))
            return content

        monkeypatch.setattr(datasets, "load_dataset", load)
        return calls

    return holds


def _refusal(data: Any, read: Any = read_json) -> str:
    with pytest.raises(DataError) as caught:
        read_requests(data, read)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ with a Hub


def test_a_local_folder_of_one_split_is_read(folder: Callable[..., str]) -> None:
    """The ``datasets`` library reads a dataset of one split."""
    name = folder(test=FACTS)
    requests = read_requests(name, read_json)
    assert [(r.case_id, r.prompt, r.target_new) for r in requests] == [
        (10 + n, f"question {n}", f"answer {n}") for n in range(3)
    ]
    assert requests[1].where == f"{name}, record 1 (case 11)", "the message has another file"


def test_a_hub_name_as_a_path_object_is_read(folder: Callable[..., str]) -> None:
    assert len(read_requests(Path(folder(test=FACTS)), read_json)) == 3
    assert str(Path("hub:owner/name:main:test[:5]")) == "hub:owner/name:main:test[:5]"


def test_a_dataset_of_several_splits_needs_a_split(folder: Callable[..., str]) -> None:
    name = folder(train=FACTS[:1], test=FACTS[1:])
    message = _refusal(name)
    assert message.startswith(f"{name}: has the splits ")
    assert f"such as {name}:t" in message
    assert [r.case_id for r in read_requests(f"{name}:test", read_json)] == [11, 12]
    assert [r.case_id for r in read_requests(f"{name}:test[1:]", read_json)] == [12], "the slice is ignored"
    assert "'nonsense'" in _refusal(f"{name}:nonsense") or '"nonsense"' in _refusal(f"{name}:nonsense")


@pytest.mark.usefixtures("loader")
def test_the_zsre_reader_reads_a_dataset(folder: Callable[..., str]) -> None:
    name = folder(test=[ZSRE, {**ZSRE, "src": "Who?"}])
    first, second = read_requests(name, read_zsre)
    assert (first.prompt, first.target_new, second.prompt) == (ZSRE["src"], "Tampere", "Who?")
    assert first.locality == {"neighborhood": (Probe("nq question: who wrote it", "Charlotte"),)}
    assert read_retention(name) == [Probe("nq question: who wrote it", "Charlotte")]


def test_fields_that_only_some_records_have_are_absent_in_the_others(folder: Callable[..., str]) -> None:
    """The table of a dataset fills missing fields with ``None``, at every depth."""
    near, far = {"near": {"prompt": "p", "ground_truth": "a"}}, {"far": {"prompt": "q", "ground_truth": "b"}}
    name = folder(test=[{**FACTS[0], "locality": near}, {**FACTS[1], "locality": far}, {**FACTS[2], "subject": "s"}])
    first, second, third = read_requests(name, read_json)
    assert (first.locality, first.subject) == ({"near": (Probe("p", "a"),)}, None)
    assert second.locality == {"far": (Probe("q", "b"),)}
    assert (dict(third.locality), third.subject) == ({}, "s")


def test_an_invalid_record_is_refused_with_the_datasets_name(folder: Callable[..., str]) -> None:
    name = folder(test=[FACTS[0], {"prompt": "p", "target_new": ""}])
    assert _refusal(name) == f"{name}, record 1, field 'target_new': is empty. Give it text or remove the record."
    with pytest.raises(DataError) as caught:
        read_requests(name, read_zsre)
    assert str(caught.value).startswith(f"{name}: 2 records can't be used.\n  record 0, field 'src': is missing")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("hub:owner/name", ("owner/name", None, {})),
        ("hub:owner/name:test", ("owner/name", None, {"split": "test"})),
        ("hub:owner/name:test[:10]", ("owner/name", None, {"split": "test[:10]"})),
        ("hub:owner/name:en:test[5:10]", ("owner/name", "en", {"split": "test[5:10]"})),
    ],
)
def test_a_name_becomes_dataset_config_and_split(hub_holds: Callable[[Any], list[Any]], name: str, call: Any) -> None:
    calls = hub_holds(datasets.Dataset.from_list(FACTS))
    assert len(read_requests(name, read_json)) == 3
    assert calls == [call]


def test_columns_that_json_cannot_hold_are_ignored(hub_holds: Callable[[Any], list[Any]]) -> None:
    """Images, dates and bytes may stand beside the facts."""
    hub_holds([{**FACTS[0], "bytes": b"\xff", "path": Path("x")}])
    assert len(read_requests("hub:owner/name", read_json)) == 1


def test_a_readers_warning_is_logged(hub_holds: Callable[[Any], list[Any]], caplog: pytest.LogCaptureFixture) -> None:
    hub_holds([{**FACTS[0], "locality_prompt": "p", "locality_ground_truth": ""}])
    assert len(read_requests("hub:owner/name", read_hallucination)) == 1
    assert "owner-name" in caplog.text


@pytest.mark.parametrize("name", ["hub:", "hub::test", "hub:a/b:", "hub:a/b:c:d:e", "hub:a/b/c", "hub:a b/c"])
def test_a_malformed_name_is_refused_with_the_valid_forms(name: str) -> None:
    assert _refusal(name) == (
        f"{name}: names no dataset. Write hub:OWNER/NAME, hub:OWNER/NAME:SPLIT or hub:OWNER/NAME:CONFIG:SPLIT."
    )


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert _refusal(f"hub:{tmp_path}/nothing") == f"hub:{tmp_path}/nothing: there is no folder {tmp_path}/nothing"


def test_an_empty_dataset_is_refused(hub_holds: Callable[[Any], list[Any]]) -> None:
    hub_holds([])
    assert _refusal("hub:owner/name") == "hub:owner/name: holds no records"


# ------------------------------------------------------------------ without a network


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Refuse every connection of this process; return the attempts."""
    attempts: list[Any] = []

    def refuse(address: Any, *rest: Any, **options: Any) -> Any:
        attempts.append(address)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return attempts


def test_an_unreachable_hub_is_reported_after_one_attempt(no_network: list[Any]) -> None:
    """The library alone would try six times, with pauses that add up to 23 seconds."""
    began = time.monotonic()
    message = _refusal("hub:nobody/has-cached-this:test")
    assert time.monotonic() - began < 8
    assert message.startswith(
        "hub:nobody/has-cached-this:test: the dataset nobody/has-cached-this:test can't be loaded: huggingface.co "
        "can't be reached and the cache has no copy: Couldn't reach"
    )
    assert message.endswith(" Without a network: download it on a machine with a network, and give the file.")
    assert "OfflineMode" not in message, "the message blames an offline mode that the user didn't choose"
    assert no_network == [("huggingface.co", 443)], "more than one attempt"
    constants = importlib.import_module("huggingface_hub.constants")
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False), "offline mode is not restored"


def test_an_unreachable_hub_switches_the_library_to_its_cache(
    no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def load(name: str, config: str | None, **options: Any) -> Any:
        modes.append(datasets.config.HF_HUB_OFFLINE)
        return datasets.Dataset.from_list(FACTS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(read_requests("hub:owner/name", read_json)) == 3
    assert modes == [True]


def test_behind_a_proxy_the_hub_is_not_probed(no_network: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy, host names needn't resolve on this machine."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "getproxies", urllib.request.getproxies)
    assert hub.unreachable_host() is None
    assert no_network == []


def test_a_local_folder_needs_no_network(folder: Callable[..., str], no_network: list[Any]) -> None:
    assert len(read_requests(folder(test=FACTS), read_json)) == 3
    assert no_network == []


def test_without_the_library_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package("datasets", monkeypatch)
    assert _refusal("hub:owner/name") == (
        "hub:owner/name: is read with the package datasets, which isn't installed. Run: pip install datasets. "
        "Download it on a machine with a network, and give the file."
    )
