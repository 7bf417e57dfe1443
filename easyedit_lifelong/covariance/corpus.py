"""Corpora: what text second moments are taken of, and how it is named."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance import documents
from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.errors import DataError, did_you_mean

SELF_SAMPLED = "self-sampled"
HUB_NAMES = {
    "wikipedia": ("wikimedia/wikipedia", "20231101.en"),
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
}
"""EasyEdit's names of corpora, and the datasets that they are today."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_INSTEAD = (
    "Give a text, JSON Lines or Parquet file or folder as the corpus, or 'self' for text sampled from the model "
    "itself, or put a published file of statistics into the statistics folder"
)


@dataclass(frozen=True)
class Corpus:
    """A source of text, not yet opened.

    Attributes:
        label: short name; the folder of its statistics is ``{label}_stats``.
        identity: what it is, as plain data: kind, and name and digest of the contents, say.
        load: returns the documents; None for text sampled from the model itself.
    """

    label: str
    identity: Mapping[str, Any]
    load: Callable[[], Sequence[str]] | None = None

    @property
    def kind(self) -> str:
        """``files``, ``dataset``, ``texts`` or ``self-sampled``."""
        return self.identity["kind"]

    @property
    def self_sampled(self) -> bool:
        """Whether the text is to be sampled from the model itself."""
        return self.kind == SELF_SAMPLED

    def open(self) -> Sequence[str]:
        """Return the documents.

        Raises:
            DataError: they can't be had.
        """
        if self.load is None:
            raise DataError("self-sampled text is made by the model; there is nothing to open")
        return self.load()


def find_corpus(corpus: str | Path | Sequence[str]) -> Corpus:
    """Say what a corpus means, without loading it.

    Args:
        corpus: a file or folder (text, JSON Lines, JSON, Parquet); ``self`` or ``self-sampled``; one of
            EasyEdit's names (``wikipedia``, ``wikitext``, ``wikitext2``); a dataset of the ``datasets`` library
            (``owner/name`` or ``owner/name:config``); or the texts themselves.

    Raises:
        DataError: it means nothing, or the files can't be read.
    """
    if not isinstance(corpus, (str, Path)):
        texts = list(corpus)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise DataError("corpus: a list must hold texts, at least one")
        digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
        return Corpus("texts", {"kind": "texts", "digest": digest}, lambda: texts)
    name = str(corpus)
    if name in ("self", SELF_SAMPLED):
        return Corpus(SELF_SAMPLED, {"kind": SELF_SAMPLED})
    if name in HUB_NAMES:
        return _dataset(name, *HUB_NAMES[name])
    path = Path(name).expanduser()
    # A folder called like a dataset must not hide it, unless it is spelled as a path or holds a corpus.
    if path.exists() or path.suffix.lower() in documents.SUFFIXES or name.startswith((".", "~", "/")):
        files = documents.files_of(path)
        label = re.sub(r"[^\w.-]+", "_", path.resolve().stem) or "corpus"
        identity = {"kind": "files", "name": path.name, "digest": documents.digest_of(files)}
        return Corpus(label, identity, lambda: documents.joined([documents.read_file(file) for file in files]))
    if not _HUB_NAME.fullmatch(name):
        raise DataError(f"corpus: {name!r} is no file, folder or dataset. {_INSTEAD}.")
    dataset, _, config = name.partition(":")
    return _dataset(re.sub(r"[/:]+", "_", name), dataset, config or None)


def _dataset(label: str, name: str, config: str | None) -> Corpus:
    identity = {"kind": "dataset", "name": name, "config": config}
    return Corpus(label, identity, functools.partial(_load_dataset, label, name, config))


def check_obtainable(corpus: Corpus) -> None:
    """Check what can be checked before a model is loaded.

    Raises:
        DataError: the corpus needs a package that isn't installed, or its files can't be read.
    """
    if corpus.kind == "dataset":
        hub.datasets_library(f"corpus {corpus.label!r}", _INSTEAD)
    elif corpus.kind == "files" and not len(corpus.open()):
        raise DataError(f"corpus {corpus.identity['name']}: holds no documents")


def _load_dataset(label: str, name: str, config: str | None) -> Sequence[str]:
    close = did_you_mean(name, [*HUB_NAMES, "self"]) if "/" not in name else ""
    loaded = hub.load_dataset(name, config, what=f"corpus {label!r}", instead=_INSTEAD, hint=close)
    if hasattr(loaded, "keys"):
        splits = list(loaded.keys())
        loaded = loaded["train" if "train" in splits else splits[0]]
    features = {
        key: getattr(value, "dtype", "") in ("string", "large_string") for key, value in loaded.features.items()
    }
    field = documents.text_field(features)
    if field is None:
        raise DataError(
            f"corpus {label!r}: has no column 'text' nor just one column of text (columns: {list(features)})"
        )
    return documents.column(loaded[field])
