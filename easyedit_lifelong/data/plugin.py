"""Registers the dataset formats of this package."""

from __future__ import annotations

from collections.abc import Callable

from easyedit_lifelong.data import fever, question_formats, readers, requested_rewrites, ripple_edits, triples, uniedit
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
    DatasetReader(
        "wikibigedit",
        question_formats.read_wikibigedit,
        "WikiBigEdit (update, ans, rephrase, personas, loc, loc_ans, mhop, mhop_ans)",
        fields=("update", "ans"),
    ),
    DatasetReader(
        "ultraeditbench",
        question_formats.read_ultraeditbench,
        "UltraEditBench (prompt, ans, rephrase_prompt, loc, loc_ans)",
        fields=("prompt", "ans"),
    ),
    DatasetReader(
        "qaedit",
        question_formats.read_qaedit,
        "QAEdit (id, prompt, target, subject, rephrase, locality)",
        fields=("prompt", "target"),
    ),
    DatasetReader(
        "knowedit",
        question_formats.read_knowedit,
        "KnowEdit and CKnowEdit (prompt, target_new, rephrase, portability, locality)",
        fields=("prompt|text", "target_new|labels", "rephrase|target_old"),
    ),
    DatasetReader(
        "wikibio",
        question_formats.read_wikibio,
        "KnowEdit's WikiBio (text, labels, concept, locality)",
        task="generation",
        fields=("text", "labels"),
    ),
    DatasetReader(
        "rome-counterfact",
        requested_rewrites.read_rome_counterfact,
        "ROME's and MEMIT's CounterFact (requested_rewrite, paraphrase_prompts, neighborhood_prompts)",
        fields=("requested_rewrite", "paraphrase_prompts|neighborhood_prompts"),
    ),
    DatasetReader(
        "mquake",
        requested_rewrites.read_mquake,
        "MQuAKE (several edits in requested_rewrite, questions, new_answer)",
        fields=("requested_rewrite", "questions", "new_answer"),
    ),
    DatasetReader(
        "ripple-edits",
        ripple_edits.read_ripple_edits,
        "RippleEdits (edit, and tests by criterion: Logical_Generalization, Compositionality_I, …)",
        fields=("edit", "Relation_Specificity|Relation_Specifity", "Compositionality_I"),
    ),
    DatasetReader(
        "uniedit",
        uniedit.read_uniedit,
        "UniEdit (an object of samples with edit, generality and locality)",
        fields=("edit", "generality", "locality"),
    ),
    DatasetReader(
        "relations",
        triples.read_relations,
        "relations with templates and samples of subject and object (name, templates, samples)",
        fields=("name", "templates", "samples"),
    ),
    DatasetReader(
        "fever",
        fever.read_fever,
        "FEVER (claim, label) for causal models: true or false, flipped",
        fields=("claim", "label"),
    ),
    DatasetReader(
        "fever-labels",
        fever.read_fever_labels,
        "FEVER (claim, label) for classifiers: the flipped label",
        "classification",
    ),
)


@hookimpl
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register the readers of published datasets, of labelled texts and of plain records."""
    for reader in READERS:
        register(reader)
