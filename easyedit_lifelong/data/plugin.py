"""Registers the dataset formats of this package."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.data import readers
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import DatasetReader

READERS = (
    DatasetReader(
        "json",
        readers.read_json,
        "JSON list, JSON Lines, CSV, TSV or parquet in EasyEdit's request fields",
        fields=("prompt", "target_new"),
    ),
    DatasetReader(
        "zsre",
        readers.read_zsre,
        "MEND's zsRE (src, alt, answers, rephrase, loc, loc_ans), by EasyEdit's loader if it is there",
        fields=("src", "alt"),
    ),
    DatasetReader(
        "zsre-rephrased",
        readers.read_zsre_rephrased,
        "zsRE with many rephrasings (input, output, filtered_rephrases), JSON Lines as GRACE reads them",
        fields=("input", "output"),
    ),
    DatasetReader(
        "counterfact", readers.read_counterfact, "EasyEdit's CounterFact, by EasyEdit's loader if it is there"
    ),
    DatasetReader(
        "hallucination",
        readers.read_hallucination,
        "SelfCheckGPT's passages as WISE prepares them (prompt, corrected sentence, locality text)",
        task="generation",
    ),
    DatasetReader(
        "labelled",
        readers.read_labelled,
        "texts with labels (text, label), for classifiers",
        "classification",
        fields=("text", "label"),
    ),
)


@hookimpl
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register the readers of published datasets, of labelled texts and of plain records."""
    for reader in READERS:
        register(reader)
