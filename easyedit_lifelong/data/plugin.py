"""Registers the dataset formats of this package."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.data import readers
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import DatasetReader

READERS = (
    DatasetReader(
        "zsre",
        readers.read_zsre,
        "MEND's zsRE (src, alt, answers, rephrase, loc, loc_ans), by EasyEdit's loader if it is there",
    ),
    DatasetReader(
        "zsre-rephrased",
        readers.read_zsre_rephrased,
        "zsRE with many rephrasings (input, output, filtered_rephrases), JSON Lines as GRACE reads them",
    ),
    DatasetReader(
        "counterfact", readers.read_counterfact, "EasyEdit's CounterFact, by EasyEdit's loader if it is there"
    ),
    DatasetReader("json", readers.read_json, "JSON list or JSON Lines in EasyEdit's request fields"),
    DatasetReader(
        "hallucination",
        readers.read_hallucination,
        "SelfCheckGPT's passages as WISE prepares them (prompt, corrected sentence, locality text)",
        task="generation",
    ),
    DatasetReader(
        "labelled", readers.read_labelled, "texts with labels (text, label), for classifiers", "classification"
    ),
)


@hookimpl
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register zsRE (two forms), CounterFact, SelfCheckGPT's hallucinations, labelled texts and plain JSON."""
    for reader in READERS:
        register(reader)
