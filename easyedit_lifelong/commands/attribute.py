"""The command ``attribute``: rank texts by how much they support an answer of a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import delete_leftovers, write_text_atomically
from easyedit_lifelong.data.json_files import ENCODING, read_json_file, unreadable
from easyedit_lifelong.errors import DataError, RunError
from easyedit_lifelong.locate.attribution import attribute
from easyedit_lifelong.locate.attribution_methods import check_attribution_method
from easyedit_lifelong.locate.lexical import bm25_scores
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.load import load_model, resolve_dtype
from easyedit_lifelong.paths import check_output_file, expanded_path
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import plain_table, print_line
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.write_errors import translated_write_errors


def run(arguments: argparse.Namespace) -> int:
    """Rank the texts; print the first, and write all scores if a file is named.

    Raises:
        LifelongError: an input can't be used.
    """
    console = Console()
    _check_method(arguments)
    if arguments.out is not None:
        check_output_file(expanded_path(arguments.out, RunError), RunError)
    texts = read_texts(expanded_path(arguments.texts, DataError))
    resolve_device(arguments.device)
    resolve_dtype(arguments.dtype)
    models = [arguments.model, *arguments.checkpoints]
    totals = [0.0] * len(texts)
    for name in models:
        model, tokenizer = load_model(name, arguments.device, arguments.dtype)
        with count_progress(console, f"gradients of {name}") as progress:
            scores = attribute(
                model,
                tokenizer,
                texts,
                arguments.prompt,
                arguments.answer,
                method=arguments.method,
                layers=arguments.layers,
                normalise=not arguments.plain,
                damping=arguments.damping,
                progress=progress,
            )
        totals = [total + score / len(models) for total, score in zip(totals, scores, strict=True)]
    lexical = bm25_scores(texts, f"{arguments.prompt} {arguments.answer}")
    order = sorted(range(len(texts)), key=lambda index: -totals[index])
    _show(console, [(rank, texts[i], totals[i], lexical[i]) for rank, i in enumerate(order[: arguments.top], 1)])
    if arguments.out is not None:
        rows = [{"line": i + 1, "text": texts[i], "score": totals[i], "bm25": lexical[i]} for i in order]
        content = {"prompt": arguments.prompt, "answer": arguments.answer, "method": arguments.method, "models": models}
        _write(expanded_path(arguments.out, RunError), {**content, "texts": rows})
        print_line(console, f"Scores of {counted(len(texts), 'text')}: {arguments.out}")
    return 0


def _check_method(arguments: argparse.Namespace) -> None:
    """Check that the method can be imported, and that the options are those of the method.

    Raises:
        DataError: an option is one of another method.
        PluginError: a package is missing.
    """
    if arguments.method == "ekfac" and arguments.checkpoints:
        raise DataError("--checkpoints: influence functions are those of the trained model; use --method tracin")
    if arguments.method != "ekfac" and arguments.damping is not None:
        raise DataError("--damping: is an option of --method ekfac")
    check_attribution_method(arguments.method)


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file: a text a line, or the field ``text`` of the records of a JSON or JSON Lines file.

    Raises:
        DataError: the file can't be read, or a record has no text.
    """
    if path.suffix.lower() not in (".json", ".jsonl"):
        try:
            lines = path.read_text(encoding=ENCODING).split("\n")
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file of texts") from error
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(path, error) from error
        texts = [line.strip() for line in lines if line.strip()]
    else:
        records = read_json_file(path, "no such file of texts")
        if not isinstance(records, list):
            raise DataError(f"{path}: must hold a list of texts, or of records with the field 'text'")
        texts = []
        for index, record in enumerate(records):
            text = record.get("text") if isinstance(record, dict) else record
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{path}, record {index}, field 'text': is missing or no text")
            texts.append(text)
    if not texts:
        raise DataError(f"{path}: holds no texts")
    return texts


def _show(console: Console, rows: Sequence[tuple[int, str, float, float]]) -> None:
    """Print the ranked texts with their scores, and BM25 beside them."""
    table = plain_table("\nTexts that support the answer, by their gradients; BM25 counts common words")
    for heading in ("rank", "score", "BM25"):
        table.add_column(heading, justify="right")
    table.add_column("text", overflow="fold")
    for rank, text, score, lexical in rows:
        table.add_row(str(rank), f"{score:+.4g}", f"{lexical:.2f}", text)
    console.print(table)


def _write(path: Path, content: dict[str, Any]) -> None:
    with translated_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(path.parent)
        write_text_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
