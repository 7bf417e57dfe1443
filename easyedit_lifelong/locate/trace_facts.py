"""Trace many facts into a folder: facts that the model doesn't know are skipped and counted."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.locate.corruption import (
    Corruption,
    GaussianNoise,
    OtherSubjects,
    subject_embedding_deviation,
)
from easyedit_lifelong.locate.known_facts import EncodedFact, KnownFact, encode_known_fact
from easyedit_lifelong.locate.trace import Tracer
from easyedit_lifelong.locate.trace_folder import SKIPPED, TRACED, UNKNOWN, TraceFolder, check_trace_folder
from easyedit_lifelong.locate.trace_settings import TraceSettings
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import context_length, model_label
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.plurals import counted

Report = Callable[[int, int | None, str], None]
"""Called after each fact with the number of traced facts, their largest number, and a line of text."""


@dataclass(frozen=True)
class TraceCounts:
    """The result of a tracing.

    Attributes:
        folder: the folder with the results.
        traced: number of traced facts.
        unknown: number of facts that the model doesn't know.
        skipped: number of facts that can't be traced: without the subject in the prompt, or too long.
    """

    folder: Path
    traced: int
    unknown: int
    skipped: int


def trace_facts(
    model: Any,
    tokenizer: Any,
    facts: Sequence[KnownFact],
    out: Path | str,
    settings: TraceSettings | None = None,
    *,
    limit: int | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> TraceCounts:
    """Trace facts in order, and write the trace of each to a folder.

    A fact is known if the model's most likely tokens after the prompt are its answer. Others are skipped and counted.

    Args:
        model: a causal language model, edited or not.
        tokenizer: its tokenizer.
        facts: the facts; the noise is that of the subjects of all of them.
        out: the folder.
        settings: how facts are traced; None for those of ROME.
        limit: stop after this many traced facts.
        resume: continue the tracing that the folder holds.
        report: called after each fact.

    Returns:
        The numbers of traced, unknown and skipped facts.

    Raises:
        DataError: there are no facts.
        ModelError: the model can't be traced.
        RunError: the folder can't be used, or holds a tracing with other settings or of other facts.
    """
    settings = TraceSettings() if settings is None else settings
    if not facts:
        raise DataError("there are no facts to trace")
    path = check_trace_folder(Path(out), resume)
    label = model_label(model)
    with locked_folder(path, work="tracing into this folder"):
        corruption = _corruption(model, tokenizer, facts, settings)
        if isinstance(corruption, GaussianNoise):
            settings = dataclasses.replace(settings, noise=corruption.level)
        tracer = Tracer(
            model,
            tokenizer,
            corruption,
            kinds=settings.kinds,
            severed=settings.severed,
            window=settings.window,
        )
        folder = TraceFolder(path)
        folder.begin({"model": label, "weights": model_fingerprint(model), **dataclasses.asdict(settings)})
        statuses = folder.statuses_of(facts)
        counts = Counter(statuses.values())
        for index, fact in enumerate(facts):
            if limit is not None and counts[TRACED] >= limit:
                break
            if index in statuses:
                continue
            status, line = _process(tracer, folder, index, fact, settings.any_answer, tokenizer, context_length(model))
            counts[status] += 1
            folder.log(line)
            if report is not None:
                report(counts[TRACED], limit, line)
    return TraceCounts(path, counts[TRACED], counts[UNKNOWN], counts[SKIPPED])


def _process(
    tracer: Tracer,
    folder: TraceFolder,
    index: int,
    fact: KnownFact,
    any_answer: bool,
    tokenizer: Any,
    longest: int | None,
) -> tuple[str, str]:
    """Trace or skip one fact; return its status, and a line for the log."""
    began = time.monotonic()
    try:
        encoded = _encode(tokenizer, fact, longest)
        predicted = None if any_answer else tracer.prediction(encoded)
        if predicted is not None:
            folder.add_skipped(index, fact, UNKNOWN, f"the model answers {predicted!r}")
            return UNKNOWN, f"fact {fact.fact_id}: not known: the model answers {predicted!r}, not {fact.answer!r}"
        trace = tracer.trace(encoded)
    except DataError as error:
        folder.add_skipped(index, fact, SKIPPED, str(error))
        return SKIPPED, f"fact {fact.fact_id}: skipped: {error}"
    seconds = time.monotonic() - began
    folder.add_trace(index, trace, seconds)
    return TRACED, (
        f"fact {fact.fact_id}: traced in {seconds:.1f} s: {counted(len(trace.tokens), 'token')}, "
        f"P {trace.high:.3f}, corrupted {trace.low:.3f}"
    )


def _encode(tokenizer: Any, fact: KnownFact, longest: int | None) -> EncodedFact:
    """Encode a fact.

    Raises:
        DataError: the subject isn't in the prompt, or the prompt is longer than the model's context.
    """
    encoded = encode_known_fact(tokenizer, fact)
    length = len(encoded.prompt) + len(encoded.answer)
    if longest is not None and length > longest:
        raise DataError(f"{fact.where}, field 'prompt': has {length} tokens with its answer; the model reads {longest}")
    return encoded


def _corruption(model: Any, tokenizer: Any, facts: Sequence[KnownFact], settings: TraceSettings) -> Corruption:
    """Return the corruption that the settings describe."""
    embed = Runner(model, tokenizer).model.get_input_embeddings()
    if settings.corruption == "subjects":
        encoded = []
        for fact in facts:
            try:
                encoded.append(encode_known_fact(tokenizer, fact))
            except DataError:
                continue  # it is recorded as skipped when its turn comes
        return OtherSubjects(encoded, embed, settings.samples)
    level = settings.noise
    if level is None:
        subjects = [fact.subject for fact in facts]
        level = settings.noise_factor * subject_embedding_deviation(tokenizer, embed, subjects)
    return GaussianNoise(level, settings.samples, settings.seed)
