"""Where second moments lie: the folder layout of MEMIT and EasyEdit."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.smollm2 import cache_dir


def stats_folder(stats_dir: str | Path | None) -> Path:
    """Return the folder of all statistics: the one given, else one in this package's cache."""
    return cache_dir() / "stats" if stats_dir is None else Path(stats_dir).expanduser()


def model_folders(model: Any) -> list[str]:
    """Return the names of a model's folder: MEMIT's and EasyEdit's release's, then EasyEdit's main branch's.

    They differ where a model's name has a slash: ``EleutherAI/gpt-j-6B`` is ``EleutherAI_gpt-j-6B`` to the first,
    ``gpt-j-6B`` to the second.
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
    """Return the file of one module's second moments.

    With ``n_samples`` alone it is the path that EasyEdit's ``layer_stats`` reads and writes:
    ``{stats_dir}/{model}/{dataset}_stats/{module}_{dtype}_mom2_{n_samples}.npz``. With ``n_tokens``, which
    EasyEdit doesn't know, the name ends in ``_{n_tokens}tokens`` instead.

    Args:
        stats_dir: the folder of all statistics; None for this package's cache.
        model: the model, for its name.
        module: path of the module, without ``.weight``.
        dataset: the corpus's short name.
        dtype: of the stored sum.
        n_samples: documents sampled.
        n_tokens: tokens taken, if the amount is given in tokens.
        context: longest row of tokens, if it isn't the model's own: ``_t{context}``, as MEMIT meant to write.
        folder: the model's folder, if not the default one.
    """
    amount = f"_{n_tokens}tokens" if n_tokens is not None else f"_{n_samples}" if n_samples is not None else ""
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
    """Return the files there are that may hold what is asked for, the best match first.

    A file of so many tokens comes before one of so many samples. Where nobody asks for a certain context
    (None), published files (without a sidecar) of a shorter one count too, under both spellings: ``_t1024``,
    and ``_t{batch_tokens}`` as MEMIT and EasyEdit write by mistake.
    """
    options = (stats_dir, model, module, dataset, dtype)
    folders, found = model_folders(model), []
    for folder in folders if n_tokens is not None else ():
        found.append(moments_file(*options, n_tokens=n_tokens, context=context, folder=folder))
    for folder in folders if n_samples is not None else ():
        found.append(moments_file(*options, n_samples=n_samples, context=context, folder=folder))
        if context is None:
            found += _of_shorter_context(found[-1], f"{module}_{dtype}_mom2", n_samples)
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _of_shorter_context(exact: Path, stem: str, n_samples: int | None) -> list[Path]:
    """Return published files of a shorter context, the longest first."""
    pattern = re.compile(re.escape(stem) + r"_t(\{batch_tokens\}|\d+)_" + str(n_samples) + r"\.npz")
    there = exact.parent.iterdir() if exact.parent.is_dir() else ()
    contexts = {
        path: int(match[1]) if match[1].isdigit() else math.inf
        for path in there
        if (match := pattern.fullmatch(path.name)) and not path.with_suffix(".json").exists()
    }
    return sorted(contexts, key=lambda path: contexts[path], reverse=True)
