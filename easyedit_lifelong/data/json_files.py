"""Read JSON and JSON Lines files, with messages that name the file, the record and the field."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.errors import DataError

_Part = TypeVar("_Part")

ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark at the file's beginning."""

_CHUNK = 1 << 20
"""Characters of a JSON list that are read at once."""

_SPACE = re.compile(r"[ \t\n\r]*")


def read_json_file(path: Path, missing: str = "no such data file") -> Any:
    """Return the value in a JSON file, or the list of values in a ``.jsonl`` file.

    Args:
        path: the file.
        missing: message if the file doesn't exist.

    Raises:
        DataError: the file doesn't exist, can't be read or isn't JSON; the message names the line.
    """
    try:
        text = path.read_text(encoding=ENCODING)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {missing}") from error
    except (OSError, ValueError) as error:  # not UTF-8; a path with a NUL character
        raise unreadable(path, error) from error
    decode = json.JSONDecoder().decode
    if path.suffix.lower() == ".jsonl":
        # Not splitlines(), which also splits at U+2028 and similar characters; JSON allows them within a text.
        return [_parse(decode, line, path, n) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _parse(decode, text, path)


def iterate_json_lines(path: Path, notes: ReadingNotes) -> Iterator[Any]:
    """Yield the value of each line of a JSON Lines file that isn't blank, as the lines are read.

    Args:
        path: the file.
        notes: receives the keys that an object has more than once.

    Raises:
        DataError: the file can't be read, or a line isn't JSON.
    """
    decode = _decoder(notes).decode
    try:
        with path.open(encoding=ENCODING, newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(decode, line.rstrip("\n"), path, number)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def iterate_json_list(path: Path, notes: ReadingNotes) -> Iterator[Any]:
    """Yield the elements of a list in a JSON file. Only a part of the file is in memory.

    Args:
        path: the file.
        notes: receives the keys that an object has more than once.

    Raises:
        DataError: the file can't be read, isn't JSON, or doesn't hold a list.
    """
    holds = "a list of records (or one record per line, in a .jsonl file)"
    return _stream(path, notes, _elements, list, holds)


def iterate_json_object(path: Path, notes: ReadingNotes) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of an object in a JSON file. Only a part of the file is in memory.

    Args:
        path: the file.
        notes: receives the keys that an object within a value has more than once.

    Raises:
        DataError: the file can't be read, isn't JSON, or doesn't hold an object.
    """
    return _stream(path, notes, _members, dict, "an object of records")


def _stream(
    path: Path, notes: ReadingNotes, parts: Callable[[_JsonText], Iterator[_Part]], kind: type, holds: str
) -> Iterator[_Part]:
    """Yield the parts of the value in a JSON file.

    Args:
        path: the file.
        notes: receives the keys that an object has more than once.
        parts: yields the parts of the value in a text.
        kind: the type that the value must have.
        holds: the same in words.

    Raises:
        DataError: the file can't be read, isn't JSON, or holds a value of another type.
    """
    try:
        with path.open(encoding=ENCODING) as file:
            yield from parts(_JsonText(file, _decoder(notes)))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        if not isinstance(read_json_file(path), kind):  # its messages have the position in the file
            raise DataError(f"{path}: must hold {holds}") from error
        raise DataError(f"{path}: not valid JSON: {error}") from error


def holds_json_object(path: Path) -> bool:
    """Return whether a JSON file begins with an object; False if it can't be read, which its reader reports."""
    try:
        with path.open(encoding=ENCODING) as file:
            return _JsonText(file, json.JSONDecoder()).next_token() == "{"
    except (OSError, ValueError):
        return False


def name_records(name: Path | str, records: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield every record, preceded by its name in messages: ``NAME, record INDEX``."""
    return ((f"{name}, record {index}", record) for index, record in enumerate(records))


def label_as_text(label: Any) -> Any:
    """Return a label as text if it is a number, as in most datasets; return any other value unchanged."""
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else label


def unreadable(path: Path, error: OSError | ValueError) -> DataError:
    """Return the error of a file that can't be opened, or that isn't UTF-8."""
    if not isinstance(error, UnicodeDecodeError):
        return DataError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}")
    try:
        path.read_text(encoding=ENCODING)  # a file that is read in parts counts bytes from the part's beginning
    except (OSError, UnicodeDecodeError) as whole:
        error = whole if isinstance(whole, UnicodeDecodeError) else error
    return DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}. Save it as UTF-8.")


class _JsonText:
    """The text of a JSON file, read in parts as its tokens are taken."""

    def __init__(self, file: IO[str], decoder: json.JSONDecoder) -> None:
        self._file, self._decoder = file, decoder
        self._buffer, self._start = "", 0

    def next_token(self) -> str:
        """Return the next character that isn't space, without taking it; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._buffer, self._start)
            self._start = space.end() if space else self._start
            if self._start < len(self._buffer) or not self._read(_CHUNK):
                return self._buffer[self._start : self._start + 1]

    def take(self, tokens: str) -> str:
        """Take the next character, which must be one of these.

        Raises:
            ValueError: it is another one, or the file ends.
        """
        token = self.next_token()
        if not token or token not in tokens:
            raise ValueError(f"found {token!r} instead of {tokens!r}")
        self._start += 1
        return token

    def value(self) -> Any:
        """Take a value.

        Raises:
            ValueError: the text is no JSON value.
        """
        size = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._start)
            except json.JSONDecodeError:
                if not self._read(size):
                    raise
            else:
                if end < len(self._buffer) or not self._read(size):  # at the end of a part, a number may be incomplete
                    self._start = end
                    return value
            size *= 2  # a long value isn't parsed too often

    def _read(self, size: int) -> bool:
        """Read more of the file; return whether there was more."""
        more = self._file.read(size)
        self._buffer, self._start = self._buffer[self._start :] + more, 0
        return bool(more)


def _elements(text: _JsonText) -> Iterator[Any]:
    """Yield the elements of a JSON list.

    Raises:
        ValueError: the text isn't a JSON list.
    """
    token = text.take("[")
    while token != "]" and not (token == "[" and text.next_token() == "]"):
        text.next_token()
        yield text.value()
        token = text.take(",]")
    if token == "[":
        text.take("]")
    if text.next_token():
        raise ValueError("the list is followed by more")


def _members(text: _JsonText) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a JSON object.

    Raises:
        ValueError: the text isn't a JSON object.
    """
    token = text.take("{")
    while token != "}" and not (token == "{" and text.next_token() == "}"):
        if text.next_token() != '"':
            raise ValueError("a key must be text")
        key = text.value()
        text.take(":")
        text.next_token()
        yield key, text.value()
        token = text.take(",}")
    if token == "{":
        text.take("}")
    if text.next_token():
        raise ValueError("the object is followed by more")


def _decoder(notes: ReadingNotes) -> json.JSONDecoder:
    """Return a decoder that notes the keys that an object has more than once."""

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            notes.repeated_keys.update(key for key, count in counts.items() if count > 1)
        return made

    return json.JSONDecoder(object_pairs_hook=make_object)


def _parse(decode: Callable[[str], Any], text: str, path: Path, line: int | None = None) -> Any:
    """Parse a JSON file, or one line of a JSON Lines file."""
    where = str(path) if line is None else f"{path}, line {line}"
    if not text.strip():
        raise DataError(f"{where}: is empty")
    try:
        return decode(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}" if line is None else f"column {error.colno}"
        one_per_line = error.msg == "Extra data" and line is None
        hint = ". If the file has one record per line, name it .jsonl" if one_per_line else ""
        raise DataError(f"{where}: not valid JSON: {error.msg} ({position}){hint}") from error
    except RecursionError as error:
        raise DataError(f"{where}: not valid JSON: its values are nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{where}: not valid JSON: {error}") from error
