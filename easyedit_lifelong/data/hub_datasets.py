"""Datasets by name, through the ``datasets`` library (an optional dependency), with or without a network."""

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

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError

PREFIX = "hub:"
_SHAPE = f"{PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME:SPLIT or {PREFIX}OWNER/NAME:CONFIG:SPLIT"
_INSTEAD = "Download it where there is one, and give the file"
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SECONDS = 3.0


def is_name(data: Path | str) -> bool:
    """Tell whether data are named as a dataset of the Hub rather than as a file."""
    return str(data).startswith(PREFIX)


def datasets_library(what: str, instead: str) -> Any:
    """Return the ``datasets`` library.

    Args:
        what: who needs it, for the message.
        instead: what can be done without it.

    Raises:
        DataError: it isn't installed.
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
    """Load a dataset; where the Hub can't be reached, from the library's cache or not at all.

    The library by itself asks an unreachable Hub six times, for more than 20 seconds.

    Args:
        name: ``owner/name``, or a folder of data files.
        config: the dataset's configuration, if it has several.
        split: the split; None for all there are.
        what: what to call it in messages.
        instead: what can be done without a network.
        hint: more to say if it can't be loaded.

    Raises:
        DataError: it can't be loaded.
    """
    library = datasets_library(what, instead)
    local = Path(name).is_dir()
    host = None if local else unreachable_host()
    options = {} if split is None else {"split": split}
    try:
        with _offline(library) if host else contextlib.nullcontext():
            return library.load_dataset(name, config, **options)
    except Exception as error:  # the library lets through whatever its network stack raises
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        first = re.sub(r" \(\w+Error\)$|\(OfflineModeIsEnabled\)$", "", first.strip()).strip().rstrip(".")
        cause = f"{host} can't be reached and the cache has no copy: {first}" if host else first
        where = ":".join(part for part in (name, config, split) if part)
        way_out = "" if local else f" Without a network: {instead[0].lower()}{instead[1:]}."
        raise DataError(f"{what}: the dataset {where} can't be loaded: {cause}.{way_out}{hint}") from error


def load_records(data: str) -> list[dict[str, Any]]:
    """Return the records of a dataset named ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.

    In place of ``OWNER/NAME`` there may be a folder of data files. A field that a record lacks is left out
    (the library's tables fill it with nothing).

    Raises:
        DataError: the name can't be understood, or the dataset can't be loaded or has several splits.
    """
    name, config, split = _parse(data)
    loaded = load_dataset(name, config, split, what=data, instead=_INSTEAD)
    if hasattr(loaded, "keys"):
        splits = list(loaded.keys())
        if len(splits) != 1:
            ask = f"{PREFIX}{name}:{f'{config}:' if config else ''}{splits[0] if splits else 'SPLIT'}"
            raise DataError(f"{data}: has the splits {', '.join(splits) or 'none'}. Name one, such as {ask}")
        loaded = loaded[splits[0]]
    return [_without_gaps(record) for record in loaded]


def read_requests(data: str, read: Callable[[Path], Iterable[EditRequest]]) -> list[EditRequest]:
    """Read a dataset by name with a reader of files; its messages speak of the dataset.

    Raises:
        DataError: the dataset can't be loaded, or its records aren't what the reader reads.
    """
    records = load_records(data)
    with tempfile.TemporaryDirectory() as folder:
        # EasyEdit's loaders, and other people's readers, take files and nothing else.
        file = Path(folder) / (re.sub(r"[^\w.-]+", "-", data)[:100] + ".json")
        file.write_text(json.dumps(records, ensure_ascii=True, default=str), encoding="utf-8")
        try:
            requests = list(read(file))
        except DataError as error:
            raise DataError(str(error).replace(str(file), data)) from error
    return [dataclasses.replace(one, source=one.source.replace(str(file), data)) for one in requests]


def _parse(data: str) -> tuple[str, str | None, str | None]:
    """Return the dataset's name or folder, its configuration and its split (which may be a slice)."""
    name, *rest = re.split(r":(?![^\[]*\])", data[len(PREFIX) :])
    if not name or len(rest) > 2 or not all(rest):
        raise DataError(f"{data}: names no dataset. Write {_SHAPE}.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder)
    elif name.startswith((".", "~", "/")):
        raise DataError(f"{data}: there is no folder {folder}")
    elif not _NAME.fullmatch(name):
        raise DataError(f"{data}: names no dataset. Write {_SHAPE}.")
    config = rest[0] if len(rest) == 2 else None
    return name, config, rest[-1] if rest else None


def _without_gaps(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_gaps(item) for key, item in value.items() if item is not None}
    return [_without_gaps(item) for item in value] if isinstance(value, list) else value


def unreachable_host() -> str | None:
    """Return the Hub's host if it can't be reached; None if it can, or if that can't be told beforehand."""
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE or set(getproxies()) & {"http", "https", "all"}:
        return None
    url = urlsplit(constants.ENDPOINT)
    if url.hostname is None:
        return None
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname, port), timeout=_SECONDS).close()
    except (OSError, ValueError):
        return url.hostname
    return None


@contextlib.contextmanager
def _offline(library: Any) -> Iterator[None]:
    """Have the library look into its cache only, as with HF_HUB_OFFLINE=1."""
    modules = [library.config, importlib.import_module("huggingface_hub.constants")]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
