"""Saved edits on the Hugging Face Hub: push them (two files and a card, in one commit), pull and check them.

``huggingface_hub`` is a dependency of transformers. It is imported only by the functions that use it.
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

from easyedit_lifelong.atomic import atomic_folder
from easyedit_lifelong.data.hub_datasets import PREFIX, unreachable_host
from easyedit_lifelong.edits.card import CARD, MARK, display_name, edits_card
from easyedit_lifelong.edits.edits_folder import (
    FORMAT_VERSION,
    INDEX,
    MANY_VERSION,
    TENSORS,
    check_empty,
)
from easyedit_lifelong.edits.folder_parts import read_description, read_edits, write_edits
from easyedit_lifelong.edits.folder_tensors import read_folder, tensors_file
from easyedit_lifelong.errors import HubError, RunError
from easyedit_lifelong.paths import expanded_path

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
    """Push saved edits to the Hugging Face Hub, in one commit.

    ``edits.json`` is uploaded completely: everybody who can read the repository can read every request. The model card
    shows at most five of them. A ``README.md`` that this package did not write is not overwritten.

    Args:
        folder: a folder that :func:`~easyedit_lifelong.save_edits` wrote, or a run's ``state/``.
        repo_id: ``OWNER/NAME``; the repository is made if it does not exist.
        private: whether a new repository is private. An existing one is not changed.
        token: a token of the Hub; the default is that of ``hf auth login`` or ``HF_TOKEN``.
        revision: the branch, made if it does not exist; None for the main branch.
        commit_message: the commit message; the default gives the number of edits.

    Returns:
        The commit's URL.

    Raises:
        RunError: the folder holds no edits, or is damaged.
        HubError: the Hub can't be reached, or rejects the request.
    """
    folder = expanded_path(folder, RunError)
    repo, branch = parse_name(repo_id)
    branch = revision or branch
    saved = read_edits(folder)
    has_steps = saved.index["format_version"] not in (FORMAT_VERSION, MANY_VERSION)
    if has_steps or saved.appended:  # with a file for each step: push them as two files
        with tempfile.TemporaryDirectory() as converted:
            write_edits(Path(converted), saved.model, saved.fingerprint, saved.parts)
            return push_edits(
                converted, repo_id, private=private, token=token, revision=revision, commit_message=commit_message
            )
    index = read_description(folder)
    try:
        card = edits_card(index, repo).encode()
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
        if _may_write_card(library, api, repo, branch):
            files[CARD] = card
        operations = [library.CommitOperationAdd(name, content) for name, content in files.items()]
        message = commit_message or f"{count} edit{'s' if count != 1 else ''} of {display_name(index['model']['name'])}"
        commit = api.create_commit(repo, operations, commit_message=message, revision=branch)
    return str(commit.commit_url)


def pull_edits(repo_id: str, revision: str | None = None, *, token: str | None = None) -> Path:
    """Pull saved edits from the Hugging Face Hub, and check their digests.

    Only the two files of edits are downloaded. Without a network, the Hub's cache on this machine is used.

    Args:
        repo_id: ``OWNER/NAME``, optionally with the prefix ``hub:`` and the suffix ``@REVISION``.
        revision: branch, tag or commit; None for the main branch.
        token: a token of the Hub; the default is that of ``hf auth login`` or ``HF_TOKEN``.

    Returns:
        The folder, in the Hub's cache. Do not write to it.

    Raises:
        HubError: the Hub can't be reached, the repository does not exist, or it holds no edits.
        RunError: the edits are incomplete or damaged.
    """
    repo, revision_in_name = parse_name(repo_id)
    revision = revision or revision_in_name
    library = _library(repo)
    options: dict[str, Any] = {"token": token, "local_files_only": unreachable_host() is not None}
    with translate_hub_errors(repo, revision):
        index = Path(library.hf_hub_download(repo, INDEX, revision=revision, **options))
        # Of the same commit as the index, even if somebody has pushed another one meanwhile.
        library.hf_hub_download(repo, TENSORS, revision=index.parent.name, **options)
    read_folder(index.parent)
    return index.parent


def copy_edits(name: str, out: str | Path, revision: str | None = None) -> Path:
    """Pull saved edits from the Hub, and copy them into a folder.

    Args:
        name: ``OWNER/NAME``, as for :func:`pull_edits`.
        out: the folder, which must be empty or not exist.
        revision: branch, tag or commit; None for the main branch.

    Returns:
        The folder.

    Raises:
        HubError: the edits can't be downloaded.
        RunError: the edits are incomplete or damaged, or the folder is not empty or can't be written.
    """
    folder = check_empty(Path(out))
    source = pull_edits(name, revision)
    try:
        with atomic_folder(folder) as work:
            for file in (INDEX, TENSORS):
                shutil.copyfile(source / file, work / file)
            read_folder(work)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder}: the edits can't be written: {getattr(error, 'strerror', None) or error}") from error
    return folder


def edits_folder(name: str | Path) -> Path:
    """Return the local folder of saved edits; a name with the prefix ``hub:`` is pulled from the Hub first.

    Raises:
        HubError: the edits can't be downloaded.
        RunError: the downloaded edits are incomplete or damaged.
    """
    if str(name).startswith(PREFIX):
        return pull_edits(str(name))
    return expanded_path(name, RunError)


def parse_name(name: str) -> tuple[str, str | None]:
    """Return the repository and the revision of ``[hub:]OWNER/NAME[@REVISION]``.

    Raises:
        HubError: the name does not have this form.
    """
    match = _NAME.fullmatch(str(name).removeprefix(PREFIX))
    if match is None:
        raise HubError(
            f"{name}: names no repository of the Hub. Write {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION."
        )
    return match["repo"], match["revision"]


def _library(repo: str) -> Any:
    """Import ``huggingface_hub``; ``repo`` is for the message if it is not installed."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            f"{PREFIX}{repo}: needs the package huggingface_hub, which isn't installed. "
            "Run: pip install huggingface_hub"
        ) from error


def _check_reachable(repo: str) -> None:
    """Raise a HubError if the Hub can't be reached; the Hub's client would retry for a long time instead."""
    host = unreachable_host()
    if host is not None:
        raise HubError(f"{PREFIX}{repo}: {host} can't be reached. Try again with a network; the folder stays as it is.")


def _may_write_card(library: Any, api: Any, repo: str, branch: str | None) -> bool:
    """Return whether a repository has no model card, or one that this package wrote."""
    try:
        card = api.hf_hub_download(repo, CARD, revision=branch)
    except library.errors.EntryNotFoundError:
        return True
    return MARK in Path(card).read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def translate_hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the Hub's client, inside the context, into errors that say what to do.

    Args:
        repo: the repository, for messages.
        revision: the revision, for messages.

    Raises:
        HubError: the client raised an error.
    """
    what = f"{PREFIX}{repo}" + (f"@{revision}" if revision else "")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{what}: this repository is gated. Request access on its page, then {_with_small_initial(_LOG_IN)}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{what}: there is no such repository, or it is private and you have no access. Check the name. {_LOG_IN}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{what}: the repository has no such branch, tag or commit") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{what}: the Hub can't be reached, and its cache on this machine has no copy. Pull the edits on a machine "
            "with a network, copy the folder here, and name the folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{what}: holds no saved edits (no {INDEX} with its {TENSORS})") from error
    except Exception as error:  # the client does not catch the errors of its network libraries
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            raise HubError(
                f"{what}: the Hub refuses: you have no permission for this, or aren't logged in. {_LOG_IN}."
            ) from error
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise HubError(f"{what}: the Hub can't do this: {first_line.strip()}") from error


def _with_small_initial(text: str) -> str:
    """Return a text with its first letter in lower case."""
    return text[0].lower() + text[1:]
