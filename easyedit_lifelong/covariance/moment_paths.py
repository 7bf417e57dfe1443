"""Paths of files of second moments, in the folder layout of MEMIT and EasyEdit."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.cache import cache_dir
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.paths import expanded_path


def stats_folder(stats_dir: str | Path | None) -> Path:
    """Return the folder of all statistics: ``stats_dir``, or one in this package's cache."""
    return cache_dir() / "stats" if stats_dir is None else expanded_path(stats_dir, CovarianceError)


def model_folders(model: Any) -> list[str]:
    """Return the possible names of a model's folder.

    The first is that of MEMIT and EasyEdit's release, the second that of EasyEdit's main branch. They differ if a
    model's name has a slash: ``EleutherAI/gpt-j-6B`` becomes ``EleutherAI_gpt-j-6B`` in the first and ``gpt-j-6B`` in
    the second.
    """
    label = model_label(model).rstrip("/")
    names = [label.replace("/", "_"), label.rpartition("/")[2]]
    return list(dict.fromkeys(names))


def moments_file(
    stats_dir: str | Path | None,
    model: Any,
    module: str,
    dataset: str,
    dtype: str,
    n_samples: int | None = None,
    *,
    n_tokens: int | None = None,
    context: int | None = None,
    folder: str | None = None,
) -> Path:
    """Return the path of the file with one module's second moments.

    With ``n_samples`` only, it is the path that EasyEdit's ``layer_stats`` reads and writes:
    ``{stats_dir}/{model}/{dataset}_stats/{module}_{dtype}_mom2_{n_samples}.npz``. With ``n_tokens``, which EasyEdit
    doesn't have, the name ends in ``_{n_tokens}tokens`` instead.

    Args:
        stats_dir: the folder of all statistics; None for this package's cache.
        model: the model, for its name.
        module: path of the module, without ``.weight``.
        dataset: label of the corpus.
        dtype: dtype of the stored sum.
        n_samples: number of documents, if the amount is in documents.
        n_tokens: number of tokens, if the amount is in tokens.
        context: maximum length of a row in tokens, if it isn't the model's context length. The name then contains
            ``_t{context}``, as MEMIT intended.
        folder: name of the model's folder, if not the default.
    """
    amount = "" if n_samples is None else f"_{n_samples}"
    if n_tokens is not None:
        amount = f"_{n_tokens}tokens"
    limit = "" if context is None else f"_t{context}"
    name = f"{module}_{dtype}_mom2{limit}{amount}.npz"
    return stats_folder(stats_dir) / (folder or model_folders(model)[0]) / f"{dataset}_stats" / name


def stored_files(
    stats_dir: str | Path | None,
    model: Any,
    module: str,
    dataset: str,
    dtype: str,
    *,
    n_samples: int | None,
    n_tokens: int | None,
    context: int | None,
) -> list[Path]:
    """Return the existing files whose names match, the best match first.

    A file with the number of tokens comes before one with the number of samples. If ``context`` is None, published
    files (without a sidecar) of a shorter context match, too. Their names contain ``_t1024``, say, or literally
    ``_t{batch_tokens}``, which MEMIT and EasyEdit write by mistake.

    See :func:`moments_file` for the arguments.
    """
    options = (stats_dir, model, module, dataset, dtype)
    folders, candidates = model_folders(model), []
    for folder in folders if n_tokens is not None else ():
        candidates.append(moments_file(*options, n_tokens=n_tokens, context=context, folder=folder))
    for folder in folders if n_samples is not None else ():
        candidates.append(moments_file(*options, n_samples=n_samples, context=context, folder=folder))
        if context is None:
            candidates += _shorter_context_files(candidates[-1], f"{module}_{dtype}_mom2", n_samples)
    return [path for path in dict.fromkeys(candidates) if path.is_file()]


def _shorter_context_files(exact: Path, stem: str, n_samples: int | None) -> list[Path]:
    """Return published files of a shorter context, the longest context first."""
    pattern = re.compile(re.escape(stem) + r"_t(\{batch_tokens\}|\d+)_" + str(n_samples) + r"\.npz")
    files = exact.parent.iterdir() if exact.parent.is_dir() else ()
    contexts = {
        path: int(match[1]) if match[1].isdigit() else math.inf
        for path in files
        if (match := pattern.fullmatch(path.name)) and not path.with_suffix(".json").exists()
    }
    return sorted(contexts, key=lambda path: contexts[path], reverse=True)
