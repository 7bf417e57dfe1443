"""Saved edits on the Hugging Face Hub: two files and a page, in one commit; what comes back is checked like any folder.

``huggingface_hub`` comes with transformers. It is imported when it is needed, and not before.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from easyedit_lifelong.atomic import appearing
from easyedit_lifelong.data.hub_datasets import PREFIX, unreachable_host
from easyedit_lifelong.edits.card import CARD, MARK, called, edits_card
from easyedit_lifelong.edits.edits_folder import (
    FORMAT_VERSION,
    INDEX,
    TENSORS,
    check_empty,
    read_folder,
    tensors_file,
)
from easyedit_lifelong.edits.parts import read_edits, write_edits
from easyedit_lifelong.errors import HubError, RunError

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?")
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"


def push_edits(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Put saved edits on the Hugging Face Hub, in one commit.

    All of ``edits.json`` goes there, so whoever may read the repository can read every request. The page shows five of
    them at most; one that somebody else wrote (a ``README.md`` without our mark) stays as it is.

    Args:
        folder: what :func:`~easyedit_lifelong.save_edits` wrote.
        repo_id: ``OWNER/NAME``; made if it isn't there.
        private: whether a repository that is made is private. One that is there stays as it is.
        token: of the Hub; by default the one that is logged in with, or ``HF_TOKEN``.
        revision: the branch; made if it isn't there. None for the main one.
        commit_message: by default it says how many edits there are.

    Returns:
        The commit's address.

    Raises:
        RunError: the folder holds no whole edits.
        HubError: the Hub can't be reached, or refuses.
    """
    folder = Path(folder).expanduser()
    repo, branch = parse_name(repo_id)
    branch = revision or branch
    saved = read_edits(folder)
    if saved.index["format_version"] != FORMAT_VERSION:  # the state of a run: many files, of which the Hub gets two
        with tempfile.TemporaryDirectory() as whole:
            write_edits(Path(whole), saved.model, saved.fingerprint, saved.parts)
            return push_edits(
                whole, repo_id, private=private, token=token, revision=revision, commit_message=commit_message
            )
    index = saved.index
    try:
        page = edits_card(index, repo).encode()
        count = sum(len(part["edits"]) for part in index["parts"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / INDEX}: lacks {error}; it isn't the index of saved edits") from error
    library = _library(repo)
    api = library.HfApi(token=token, library_name="easyedit_lifelong")
    _check_reachable(repo)
    with translate_hub_errors(repo, branch):
        api.create_repo(repo, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        files: dict[str, Any] = {INDEX: folder / INDEX, TENSORS: tensors_file(folder, index)}
        if _page_is_ours(library, api, repo, branch):
            files[CARD] = page
        add = [library.CommitOperationAdd(name, content) for name, content in files.items()]
        message = commit_message or f"{count} edit{'s' if count != 1 else ''} of {called(index['model']['name'])}"
        commit = api.create_commit(repo, add, commit_message=message, revision=branch)
    return str(commit.commit_url)


def pull_edits(repo_id: str, revision: str | None = None, *, token: str | None = None) -> Path:
    """Fetch saved edits from the Hugging Face Hub, and check them like any folder of edits.

    Only the two files of edits are fetched. Without a network, what the Hub's cache on this machine has will do.

    Args:
        repo_id: ``OWNER/NAME``, with or without ``hub:`` before it and ``@REVISION`` behind it.
        revision: branch, tag or commit; None for the main branch.
        token: of the Hub; by default the one that is logged in with, or ``HF_TOKEN``.

    Returns:
        The folder, in the Hub's cache: to be read, not to be written to.

    Raises:
        HubError: the Hub can't be reached, or there is no such repository, or there are no edits in it.
        RunError: the edits there aren't whole.
    """
    repo, own = parse_name(repo_id)
    revision = revision or own
    library = _library(repo)
    options: dict[str, Any] = {"token": token, "local_files_only": unreachable_host() is not None}
    with translate_hub_errors(repo, revision):
        index = Path(library.hf_hub_download(repo, INDEX, revision=revision, **options))
        # The same commit's, whatever has been pushed in between.
        library.hf_hub_download(repo, TENSORS, revision=index.parent.name, **options)
    read_folder(index.parent)
    return index.parent


def copy_edits(name: str, out: str | Path, revision: str | None = None) -> Path:
    """Fetch saved edits from the Hub into a folder of their own.

    Args:
        name: as :func:`pull_edits` takes it.
        out: a folder that isn't there yet, or is empty.
        revision: branch, tag or commit.

    Raises:
        HubError: they can't be had.
        RunError: they aren't whole, or the folder is in use or can't be written.
    """
    folder = check_empty(Path(out))
    source = pull_edits(name, revision)
    try:
        with appearing(folder) as work:
            for file in (INDEX, TENSORS):
                shutil.copyfile(source / file, work / file)
            read_folder(work)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder}: the edits can't be written: {getattr(error, 'strerror', None) or error}") from error
    return folder


def edits_folder(name: str | Path) -> Path:
    """Return the folder that holds saved edits: the one that is named or, after ``hub:``, what the Hub has.

    Raises:
        HubError: they can't be had from the Hub.
        RunError: what the Hub has isn't whole.
    """
    if str(name).startswith(PREFIX):
        return pull_edits(str(name))
    return Path(name).expanduser()


def parse_name(name: str) -> tuple[str, str | None]:
    """Return the repository and the revision of ``[hub:]OWNER/NAME[@REVISION]``.

    Raises:
        HubError: it is spelled in another way.
    """
    found = _NAME.fullmatch(str(name).removeprefix(PREFIX))
    if found is None:
        raise HubError(
            f"{name}: names no repository of the Hub. Write {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION."
        )
    return found["repo"], found["revision"]


def _library(repo: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            f"{PREFIX}{repo}: needs the package huggingface_hub, which isn't installed. "
            "Run: pip install huggingface_hub"
        ) from error


def _check_reachable(repo: str) -> None:
    """Refuse at once where the client would ask an unreachable Hub again and again."""
    host = unreachable_host()
    if host is not None:
        raise HubError(f"{PREFIX}{repo}: {host} can't be reached. Try again with a network; the folder stays as it is.")


def _page_is_ours(library: Any, api: Any, repo: str, branch: str | None) -> bool:
    """Whether a repository has no page yet, or one that we wrote."""
    try:
        page = api.hf_hub_download(repo, CARD, revision=branch)
    except library.errors.EntryNotFoundError:
        return True
    return MARK in Path(page).read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def translate_hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what the Hub's client raises inside into an error that says what to do.

    Raises:
        HubError: instead.
    """
    what = f"{PREFIX}{repo}" + (f"@{revision}" if revision else "")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{what}: its owner lets in only whom they know. Ask on its page, then {_lowered(_LOG_IN)}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{what}: there is no such repository, or it is private and you may not see it. Check the name. {_LOG_IN}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{what}: the repository has no such branch, tag or commit") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{what}: the Hub can't be reached, and its cache on this machine has no copy. Pull the edits where there "
            "is a network, and name the folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{what}: holds no saved edits (no {INDEX} with its {TENSORS})") from error
    except Exception as error:  # the client lets through whatever its network stack raises
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            raise HubError(
                f"{what}: the Hub refuses: you may not do this there, or aren't logged in. {_LOG_IN}."
            ) from error
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise HubError(f"{what}: the Hub can't do this: {first.strip()}") from error


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]
