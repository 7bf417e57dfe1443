"""Load datasets by name with the ``datasets`` library (an optional dependency), also without a network."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from easyedit_lifelong.data.reading import ReadResult, separate
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.paths import expanded_path

PREFIX = "hub:"
_NAME_FORMS = f"{PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME:SPLIT or {PREFIX}OWNER/NAME:CONFIG:SPLIT"
_WITHOUT_NETWORK = "Download it on a machine with a network, and give the file"
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TIMEOUT_SECONDS = 3.0


def is_hub_name(data: Path | str) -> bool:
    """Return whether data are given as the name of a dataset (``hub:…``) rather than as a file."""
    return str(data).startswith(PREFIX)


def datasets_library(what: str, instead: str) -> Any:
    """Return the ``datasets`` library.

    Args:
        what: name of the dataset, for the message.
        instead: sentence that says what the user can do without the library.

    Raises:
        DataError: the library isn't installed.
    """
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{what}: is read with the package datasets, which isn't installed. Run: pip install datasets. {instead}."
        ) from error


def load_dataset(
    name: str, config: str | None = None, split: str | None = None, *, what: str, instead: str, hint: str = ""
) -> Any:
    """Load a dataset. If the Hub can't be reached, only the library's cache is tried.

    The library itself would retry an unreachable Hub six times, for more than 20 seconds.

    Args:
        name: ``owner/name``, or a folder of data files.
        config: the dataset's configuration, if it has several.
        split: the split; None for all splits.
        what: name of the dataset in messages.
        instead: sentence that says what the user can do without a network.
        hint: appended to the message if the dataset can't be loaded.

    Raises:
        DataError: the dataset can't be loaded.
    """
    library = datasets_library(what, instead)
    local = Path(name).is_dir()
    host = None if local else unreachable_host()
    options = {} if split is None else {"split": split}
    try:
        with _offline(library) if host else contextlib.nullcontext():
            return library.load_dataset(name, config, **options)
    except Exception as error:  # the library doesn't wrap the errors of its network code
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reason = re.sub(r" \(\w+Error\)$|\(OfflineModeIsEnabled\)$", "", first_line.strip()).strip().rstrip(".")
        cause = f"{host} can't be reached and the cache has no copy: {reason}" if host else reason
        dataset = ":".join(part for part in (name, config, split) if part)
        advice = "" if local else f" Without a network: {instead[0].lower()}{instead[1:]}."
        raise DataError(f"{what}: the dataset {dataset} can't be loaded: {cause}.{advice}{hint}") from error


def load_records(data: str) -> list[dict[str, Any]]:
    """Return the records of a dataset named ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.

    ``OWNER/NAME`` can also be a folder of data files. Fields that a record doesn't have are None, as in the library's
    tables.

    Raises:
        DataError: the name is invalid, the dataset can't be loaded, or it has several splits and the name has none.
    """
    name, config, split = _parse(data)
    loaded = load_dataset(name, config, split, what=data, instead=_WITHOUT_NETWORK)
    if hasattr(loaded, "keys"):
        splits = list(loaded.keys())
        if len(splits) != 1:
            example = f"{PREFIX}{name}:{f'{config}:' if config else ''}{splits[0] if splits else 'SPLIT'}"
            raise DataError(f"{data}: has the splits {', '.join(splits) or 'none'}. Name one, such as {example}")
        loaded = loaded[splits[0]]
    return list(loaded)


def read_results(
    data: str, read: Callable[[Path], Iterable[ReadResult]], limit: int | None = None
) -> tuple[list[EditRequest], list[DataError]]:
    """Read a dataset by name with a reader of files. Messages name the dataset, not the temporary file.

    Args:
        data: the name, ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.
        read: reads a file of the format.
        limit: read only this many requests, from the beginning.

    Returns:
        The requests, and the errors of the records that can't be used.

    Raises:
        DataError: the dataset can't be loaded or read.
    """
    records = load_records(data)
    with tempfile.TemporaryDirectory() as folder:
        # EasyEdit's loaders and readers of plugins accept only files.
        file = Path(folder) / (re.sub(r"[^\w.-]+", "-", data)[:100] + ".json")
        file.write_text(json.dumps(records, ensure_ascii=True, default=str), encoding="utf-8")
        try:
            requests, unusable = separate(read(file), limit)
        except DataError as error:
            raise DataError(str(error).replace(str(file), data)) from error
    named = [dataclasses.replace(request, source=request.source.replace(str(file), data)) for request in requests]
    return named, [DataError(str(error).replace(str(file), data)) for error in unusable]


def _parse(data: str) -> tuple[str, str | None, str | None]:
    """Return the dataset's name or folder, its configuration and its split (which can be a slice)."""
    name, *rest = re.split(r":(?![^\[]*\])", data[len(PREFIX) :])
    if not name or len(rest) > 2 or not all(rest):
        raise DataError(f"{data}: names no dataset. Write {_NAME_FORMS}.")
    folder = expanded_path(name, DataError)
    if folder.is_dir():
        name = str(folder)
    elif name.startswith((".", "~", "/")):
        raise DataError(f"{data}: there is no folder {folder}")
    elif not _NAME.fullmatch(name):
        raise DataError(f"{data}: names no dataset. Write {_NAME_FORMS}.")
    config = rest[0] if len(rest) == 2 else None
    return name, config, rest[-1] if rest else None


def unreachable_host() -> str | None:
    """Return the Hub's host if it can't be reached; None if it can, or if only a request would tell."""
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE or set(getproxies()) & {"http", "https", "all"}:
        return None
    url = urlsplit(constants.ENDPOINT)
    if url.hostname is None:
        return None
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname, port), timeout=_TIMEOUT_SECONDS).close()
    except (OSError, ValueError):
        return url.hostname
    return None


@contextlib.contextmanager
def _offline(library: Any) -> Iterator[None]:
    """Make the library use only its cache in this context, as HF_HUB_OFFLINE=1 does."""
    modules = [library.config, importlib.import_module("huggingface_hub.constants")]
    previous = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, previous, strict=True):
            module.HF_HUB_OFFLINE = value
