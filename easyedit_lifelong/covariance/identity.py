"""Read, write and check the sidecar of a file of second moments.

The sidecar is a JSON file that says which model, module and text the second moments are of, so that a file of another
collection isn't used by mistake.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.npz import writing_file
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.parsing import parse_json

LOG = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Identity:
    """Everything that changes the second moments of a module.

    Attributes:
        model: the model's name.
        fingerprint: fingerprint of the model's weights.
        module: path of the module whose inputs are the keys.
        corpus: identity of the corpus; see :class:`~easyedit_lifelong.covariance.corpus.Corpus`.
        tokens: the amount, if in tokens.
        samples: the amount, if in documents.
        dtype: dtype of the stored sum.
        context: maximum length of a row, in tokens.
        seed: seed of the order of documents, or of the sampling.
    """

    model: str
    fingerprint: str
    module: str
    corpus: Mapping[str, Any]
    tokens: int | None
    samples: int | None
    dtype: str
    context: int
    seed: int


def sidecar_of(path: Path) -> Path:
    """Return the path of the sidecar of a file of second moments."""
    return path.with_suffix(".json")


def write_sidecar(path: Path, identity: Identity, facts: Mapping[str, Any]) -> None:
    """Write the sidecar of a file of second moments.

    Call this before the file gets its name. If the process is killed in between, a sidecar without a file remains, but
    never a file that can't be checked.

    Args:
        path: the ``.npz`` file.
        identity: identity of the second moments.
        facts: further fields (``count``, ``documents``, …).
    """
    write_fields(path, {"format": FORMAT, **asdict(identity), **facts})


def write_fields(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a sidecar with the given fields."""
    with writing_file(sidecar_of(path)) as temporary:
        temporary.write_text(json.dumps(dict(fields), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the fields of a file's sidecar; None if it has none, as published files.

    Raises:
        CovarianceError: the sidecar can't be read, or has another format.
    """
    sidecar = sidecar_of(path)
    try:
        content = parse_json(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CovarianceError(f"{sidecar}: can't be read ({error}). Delete it and {path.name}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        file_format = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CovarianceError(
            f"{sidecar}: format is {file_format!r}; this version reads {FORMAT}. Delete it and {path.name}."
        )
    return content


def check_sidecar(path: Path, content: Mapping[str, Any], wanted: Identity) -> None:
    """Check that a file holds the wanted second moments, by its sidecar.

    The model's name isn't compared, since the fingerprint is more precise. The seed isn't compared, since another
    sample of the same text is equally good. If the file was stored as a copy for the wanted number of samples
    (``easyedit_samples``), amounts and context length aren't compared.

    Args:
        path: the ``.npz`` file.
        content: fields of its sidecar.
        wanted: identity of the wanted second moments.

    Raises:
        CovarianceError: they differ; the message lists the differences and what to do.
    """
    fields = asdict(wanted)
    ignored = {"model", "seed"}
    stand_in = content.get("stands_in_for_samples")
    if stand_in is not None and stand_in == wanted.samples:
        LOG.warning(
            "%s: stands in for %d samples, as easyedit_samples requested; it holds %s tokens",
            path,
            stand_in,
            content.get("count"),
        )
        ignored |= {"tokens", "samples", "context"}
    differences = [
        f"{name} is {_shorten(content.get(name))} there, {_shorten(value)} here"
        for name, value in fields.items()
        if name not in ignored and content.get(name) != value
    ]
    if differences:
        raise CovarianceError(
            f"{path}: holds other second moments than these: {'; '.join(differences)}. "
            f"Delete the file and {sidecar_of(path).name} to collect again, or name another folder."
        )


def _shorten(value: Any) -> str:
    """Return a value of a sidecar as text for messages; long digests are cut."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shorten(item)}" for key, item in value.items())
    text = str(value) if value is not None else "not given"
    return text if len(text) <= 24 or " " in text or "/" in text else f"{text[:12]}…"
