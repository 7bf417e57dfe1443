"""The records of a search: usable ones from the end of the data, which a run does not score by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plurals import counted


@dataclass(frozen=True)
class HeldOutRecords:
    """Records that are edited in every trial.

    Attributes:
        requests: their requests.
        numbers: the number of each in the data, counted from 0.
        n_read: number of records that were read.
    """

    requests: list[EditRequest]
    numbers: list[int]
    n_read: int

    @property
    def described(self) -> str:
        """The numbers of the records as text."""
        first, last = self.numbers[0], self.numbers[-1]
        span = "all" if last - first + 1 == len(self.numbers) else f"{len(self.numbers)} usable ones"
        return f"records {first} to {last}, counted from 0 ({span})"


def held_out_records(requests: Sequence[EditRequest], n_edits: int, offset: int | None, source: str) -> HeldOutRecords:
    """Choose the records of a search.

    Runs edit and score the first records of their data unless they are told otherwise. So the last ones are taken.

    Args:
        requests: all records that were read.
        n_edits: how many records are wanted.
        offset: take the first usable ones from this record on; None: the last usable ones.
        source: where the records are from, for messages.

    Raises:
        DataError: too few records have a paraphrase and a locality prompt.
    """
    first = offset or 0
    candidates = list(enumerate(requests))[first:]
    usable = [(number, request) for number, request in candidates if not _missing(request)]
    if len(usable) < n_edits:
        missing = [what for _, request in candidates for what in _missing(request)]
        causes = "; ".join(f"{missing.count(what)} without {what}" for what in dict.fromkeys(missing))
        where = f"{source}, from record {first} on" if first else source
        raise DataError(
            f"{where}: {len(usable)} of {counted(len(candidates), 'record')} can be used, but each trial edits "
            f"{n_edits}{f' ({causes})' if causes else ''}. Generality needs paraphrases, and locality needs prompts "
            f"whose answers must not change. Name other data, or fewer --edits."
        )
    chosen = usable[-n_edits:] if offset is None else usable[:n_edits]
    return HeldOutRecords([request for _, request in chosen], [number for number, _ in chosen], len(requests))


def _missing(request: EditRequest) -> list[str]:
    """Return what a record lacks."""
    missing = [] if request.rephrase_prompts else ["rephrase_prompt"]
    return missing if any(request.locality.values()) else [*missing, "locality_prompt"]
