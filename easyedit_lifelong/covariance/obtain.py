"""Get second moments from disk, or collect them. Editors and users call these functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.covariance.derive import check_copies, store_copies
from easyedit_lifelong.covariance.job import make_job
from easyedit_lifelong.covariance.key_modules import layer_modules
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.shards import current_shard, on_first_process
from easyedit_lifelong.covariance.stored import find_stored, read_stored
from easyedit_lifelong.errors import CovarianceError, PluginError
from easyedit_lifelong.plugins import get_plugins

DTYPES = ("float32", "float64")

ProgressCallback = Callable[[int, int], None]
"""Called with the number of tokens read and the total; with documents instead, if the amount is in samples."""


def obtain_moments(
    model: Any,
    tokenizer: Any,
    modules: Sequence[str],
    *,
    stats_dir: str | Path | None,
    dataset: str | Path | Sequence[str],
    n_samples: int | None = None,
    n_tokens: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    context: int | None = None,
    progress: ProgressCallback | None = None,
    save_every: float = 30.0,
    block_tokens: int | None = None,
    easyedit_samples: int | None = None,
    engine: str = "native",
) -> dict[str, SecondMoment]:
    """Return the second moments of several modules' inputs. Those that aren't on disk are collected in one pass.

    A file with a sidecar is used only if the sidecar agrees in model (weights), module, corpus, amount, dtype and
    context length. Published files have no sidecar; they are used if the size of the matrix fits the module.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        modules: paths of the modules whose inputs are the keys.
        stats_dir: folder of statistics, in EasyEdit's layout; None for one in this package's cache.
        dataset: the corpus (MEMIT's ``mom2_dataset``); see :func:`~easyedit_lifelong.covariance.corpus.find_corpus`.
        n_samples: amount as a number of documents (MEMIT's ``mom2_n_samples``), each truncated to the context length.
        n_tokens: amount as a number of tokens. If both numbers are given, a file of either amount is used, and the
            number of tokens is collected. If none is given, the amount is ten tokens per dimension of the largest key.
        dtype: dtype of the stored sums, ``float32`` or ``float64`` (MEMIT's ``mom2_dtype``).
        seed: seed of the order of documents, or of the sampling. Seed 0 selects the same documents as EasyEdit.
        context: maximum length of a row in tokens. The default is the model's context length, as in EasyEdit, or 512 if
            the amount is in tokens.
        progress: called with the amount read and the total: tokens, or documents if the amount is in documents.
        save_every: seconds between two checkpoints of unfinished sums.
        block_tokens: number of tokens after which a block ends; for tests.
        easyedit_samples: also store copies under the names that EasyEdit expects for this ``mom2_n_samples``.
        engine: engine that collects: ``native``, ``easyedit`` (EasyEdit's ``layer_stats``), or a plugin's. All give
            the same result up to rounding, so a file on disk is used whichever engine wrote it.

    Returns:
        Second moments by module path, in the order of ``modules``. If several processes collect, all get the same.

    Raises:
        CovarianceError: a stored file is invalid or of another collection, or the keys can't be collected.
        DataError: the corpus can't be loaded.
        ModelError: the model has no such module, or the module is no linear projection.
        PluginError: no such engine is registered.
    """
    if dtype not in DTYPES:
        raise CovarianceError(f"dtype: {dtype!r} can't hold sums of second moments; use one of {', '.join(DTYPES)}")
    selected_engine = get_plugins().covariance_engines.get(engine)
    job = make_job(
        model,
        modules,
        find_corpus(dataset),
        n_samples=n_samples,
        n_tokens=n_tokens,
        context=context,
        counts_tokens=selected_engine.counts_tokens,
        stats_dir=stats_dir,
        dtype=dtype,
        seed=seed,
        save_every=save_every,
        block_tokens=block_tokens,
    )
    shard = current_shard()

    def find_files() -> dict[str, Path]:
        stored = find_stored(job)
        check_copies(job, easyedit_samples)
        return stored

    files = on_first_process(shard, find_files)
    moments = {module: read_stored(job, module, path, shard) for module, path in files.items()}
    missing = {module: size for module, size in job.sizes.items() if module not in files}
    if missing:
        collection = replace(job, sizes=missing)
        selected_engine.check(collection.corpus, n_samples, n_tokens)
        collected = selected_engine.collect(model, tokenizer, collection, shard, progress)
        if left_out := [module for module in missing if module not in collected]:
            raise PluginError(f"covariance engine {engine!r} collected nothing for {', '.join(left_out)}")
        moments.update(collected)
        files.update(collection.paths)
    on_first_process(shard, lambda: store_copies(job, files, easyedit_samples))
    return {module: moments[module] for module in job.sizes}


def collect_covariance(
    model: Any,
    tokenizer: Any,
    layers: Sequence[int | str],
    corpus: str | Path | Sequence[str] = "self",
    *,
    module_template: str | None = None,
    tokens: int | None = None,
    samples: int | None = None,
    out: str | Path | None = None,
    dtype: str = "float32",
    seed: int = 0,
    context: int | None = None,
    progress: ProgressCallback | None = None,
    save_every: float = 30.0,
    easyedit_samples: int | None = None,
    engine: str = "native",
) -> dict[str, SecondMoment]:
    """Collect the second moments E[k kᵀ] of the inputs of layers' MLP output projections, in one pass.

    Second moments that are on disk aren't collected again. An interrupted collection is resumed. Under ``torchrun``
    (with a process group set up), the processes share the work.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        layers: indices of blocks, or paths of modules.
        corpus: a file, a folder, the name of a dataset, a list of texts, or ``self`` for text sampled from the model.
        module_template: path of the module, with ``{}`` for the index of the block (``rewrite_module_tmp``). The
            default is the MLP's output projection, which is found in the model.
        tokens: amount as a number of tokens. The default is ten per dimension of the largest key.
        samples: amount as a number of documents, as in MEMIT.
        out: folder of statistics (``stats_dir``); None for one in this package's cache.
        dtype: dtype of the stored sums, ``float32`` or ``float64``.
        seed: seed of the order of documents, or of the sampling.
        context: maximum length of a row in tokens.
        progress: called with the amount read and the total.
        save_every: seconds between two checkpoints of unfinished sums.
        easyedit_samples: also store copies under the names that EasyEdit's MEMIT expects for this ``mom2_n_samples``.
            Such a file states that number of samples; its sidecar states the real amount.
        engine: engine that collects: ``native``, ``easyedit``, or a plugin's.

    Returns:
        Second moments by module path.

    Raises:
        CovarianceError: both amounts are given, a stored file is invalid or of another collection, or the keys can't be
            collected.
        DataError: the corpus can't be loaded.
        ModelError: the model has no such layer.
        PluginError: no such engine is registered.
    """
    if tokens is not None and samples is not None:
        raise CovarianceError("give either tokens or samples, not both")
    return obtain_moments(
        model,
        tokenizer,
        layer_modules(model, layers, module_template),
        stats_dir=out,
        dataset=corpus,
        n_samples=samples,
        n_tokens=tokens,
        dtype=dtype,
        seed=seed,
        context=context,
        progress=progress,
        save_every=save_every,
        easyedit_samples=easyedit_samples,
        engine=engine,
    )
