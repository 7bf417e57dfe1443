"""What second moments are of, kept as JSON beside each file, so that no other's are ever used by mistake."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.npz import replacing
from easyedit_lifelong.errors import CovarianceError

LOG = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Identity:
    """Everything that changes the second moments of a module.

    Attributes:
        model: the model's name.
        fingerprint: of its weights.
        module: path of the module whose inputs are the keys.
        corpus: what the text is; see :class:`~easyedit_lifelong.covariance.corpus.Corpus`.
        tokens: how many tokens were asked for, or None.
        samples: how many documents were asked for, or None.
        dtype: of the stored sum.
        context: longest row of tokens.
        seed: of the order of documents, or of the sampling.
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
    """Return the JSON file that belongs to a file of second moments."""
    return path.with_suffix(".json")


def write_sidecar(path: Path, identity: Identity, facts: Mapping[str, Any]) -> None:
    """Write what a file of second moments is of.

    It comes before the file itself: whoever is killed between the two leaves a sidecar of nothing,
    not statistics that nobody can verify.

    Args:
        path: the ``.npz`` file.
        identity: what it is of.
        facts: what was counted (``count``, ``documents``, …).
    """
    write_fields(path, {"format": FORMAT, **asdict(identity), **facts})


def write_fields(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a sidecar's fields as they are."""
    with replacing(sidecar_of(path)) as temporary:
        temporary.write_text(json.dumps(dict(fields), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read what a file of second moments says it is of; None where it says nothing (published files).

    Raises:
        CovarianceError: the sidecar can't be read.
    """
    sidecar = sidecar_of(path)
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CovarianceError(f"{sidecar}: can't be read ({error}). Delete it and {path.name}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CovarianceError(
            f"{sidecar}: format is {found!r}; this version reads {FORMAT}. Delete it and {path.name}."
        )
    return content


def check_sidecar(path: Path, content: Mapping[str, Any], wanted: Identity) -> None:
    """Compare what a file says it is of with what is wanted.

    The model's name isn't compared, since the fingerprint says more; nor is the seed, since another
    sample of the same text is as good. Files may stand in for a number of samples on purpose
    (``easyedit_samples``): their amounts then aren't compared.

    Args:
        path: the ``.npz`` file.
        content: its sidecar.
        wanted: what is wanted.

    Raises:
        CovarianceError: they differ; the message says in what, and what to do.
    """
    fields = asdict(wanted)
    ignored = {"model", "seed"}
    stand_in = content.get("stands_in_for_samples")
    if stand_in is not None and stand_in == wanted.samples:
        LOG.warning(
            "%s: stands in for %d samples, as it was told to; it holds %s tokens", path, stand_in, content.get("count")
        )
        ignored |= {"tokens", "samples", "context"}
    differences = [
        f"{name} is {_short(content.get(name))} there, {_short(value)} here"
        for name, value in fields.items()
        if name not in ignored and content.get(name) != value
    ]
    if differences:
        raise CovarianceError(
            f"{path}: holds other second moments than these: {'; '.join(differences)}. "
            f"Delete the file and {sidecar_of(path).name} to collect anew, or name another folder."
        )


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    text = str(value) if value is not None else "not given"
    return text if len(text) <= 24 or " " in text or "/" in text else f"{text[:12]}…"
