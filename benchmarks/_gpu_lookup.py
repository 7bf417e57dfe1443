"""Lookups of GRACE's codebook on a device, by number of keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from _gpu_report import Section
from _lookup import compare_lookups

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook

QUERIES = 8
LARGEST_WIDE = 100_000
"""More keys than this have the smaller width, so that they fit into the memory of one device."""

DECODING = "llama3-8b, bfloat16"
"""The section whose decode steps lookups are compared with."""

GOAL = 0.02
"""Share of such a decode step that a lookup in 100,000 keys may take."""


@dataclass(frozen=True)
class LookupSizes:
    """The codebooks that are measured.

    Attributes:
        keys: numbers of keys.
        wide: width of the keys of codebooks of at most :data:`LARGEST_WIDE` keys.
        narrow: width of larger ones.
        runs: runs of each measurement.
    """

    keys: tuple[int, ...]
    wide: int
    narrow: int
    runs: int


def lookups(section: Section, device: torch.device, sizes: LookupSizes) -> None:
    """Time lookups in random keys in bfloat16, and compare their answers with brute force."""
    for count in sizes.keys:
        width = sizes.wide if count <= LARGEST_WIDE else sizes.narrow
        with section.step(f"{count:,} keys of width {width}"):
            codebook = _random_codebook(count, width, device)
            far = torch.randn(QUERIES, width, device=device)
            measured = compare_lookups(codebook, far, sizes.runs)  # an error if the answers differ
            section.check("the answers are those of brute force", True)
            section.figure(f"lookup, batch of {QUERIES}", 1000 * measured["ours"], "ms")
            section.figure(f"brute force, batch of {QUERIES}", 1000 * measured["theirs"], "ms")
            section.figure("nearest key of a distant query", 1000 * measured["nearest_ours"], "ms")
            section.figure("first lookup", measured["take_up_seconds"], "s")
            section.figure("codebook", measured["bytes"] / 2**30, "GiB")


def _random_codebook(count: int, width: int, device: torch.device) -> Codebook:
    """Build a codebook of random keys. Its values have width 1: a lookup does not read them."""
    codebook = Codebook(width, 1, eps=1.0, device=device)
    keys = torch.randn(count, width, device=device, dtype=torch.bfloat16)
    radii, values = torch.ones(count, device=device), torch.zeros(count, 1, device=device)
    codebook.load_state_dict({"keys": keys, "values": values, "radii": radii})
    return codebook


def compare_with_decoding(section: Section) -> None:
    """Express lookups as a share of a decode step of the unedited model of :data:`DECODING`."""
    section.begin("lookups")
    figures = list(section.report.figures)
    speeds = [f.value for f in figures if f.section.endswith(DECODING) and f.name == "generation, batch of 1"]
    if not speeds:
        return
    step_ms = 1000 / speeds[0]  # the first figure is that of the unedited model
    for figure in (figure for figure in figures if figure.name == f"lookup, batch of {QUERIES}"):
        section.begin(figure.step)
        goal = GOAL if figure.step.startswith(f"{LARGEST_WIDE:,} ") else None
        section.figure("lookup / decode step", figure.value / step_ms, "", goal)
