"""The dataset formats that come with this package."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.data.readers import (
    read_counterfact,
    read_hallucination,
    read_json,
    read_labelled,
    read_zsre,
    read_zsre_rephrased,
)
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import DatasetReader


@hookimpl
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register zsRE (two forms), CounterFact, SelfCheckGPT's hallucinations, labelled texts and plain JSON."""
    register(
        DatasetReader(
            "zsre", read_zsre, "MEND's zsRE (src, alt, answers, rephrase, loc, loc_ans), by EasyEdit's loader"
        )
    )
    register(
        DatasetReader(
            "zsre-rephrased",
            read_zsre_rephrased,
            "zsRE with many rephrasings (input, output, filtered_rephrases), JSON Lines as GRACE reads them",
        )
    )
    register(DatasetReader("counterfact", read_counterfact, "EasyEdit's CounterFact, by EasyEdit's loader"))
    register(DatasetReader("json", read_json, "JSON list or JSON Lines in EasyEdit's request fields"))
    register(
        DatasetReader(
            "hallucination",
            read_hallucination,
            "SelfCheckGPT's passages as WISE prepares them (prompt, corrected sentence, locality text)",
            task="generation",
        )
    )
    register(
        DatasetReader("labelled", read_labelled, "texts with labels (text, label), for classifiers", "classification")
    )
