"""Second moments, found on disk or collected: what editors and users call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.covariance.derive import check_copies, store_copies
from easyedit_lifelong.covariance.job import make_job
from easyedit_lifelong.covariance.layers import layer_modules
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.shards import current_shard, on_first
from easyedit_lifelong.covariance.stored import find_stored, read_stored
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.plugins import get_plugins

DTYPES = ("float32", "float64")

ProgressCallback = Callable[[int, int], None]
"""Called with what is done and the total: tokens, or documents where samples are counted."""


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
    """Return the second moments of several modules' inputs, collecting in one pass what isn't on disk.

    A file of ours is used only if its sidecar agrees in model (weights), module, corpus, amount, dtype and
    context length. A published file has no sidecar; it is used if its matrix can be the module's.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        modules: paths of the modules whose inputs are the keys.
        stats_dir: folder of statistics, in EasyEdit's layout; None for one in this package's cache.
        dataset: the corpus (MEMIT's ``mom2_dataset``); see :func:`~easyedit_lifelong.covariance.corpus.find_corpus`.
        n_samples: MEMIT's ``mom2_n_samples``: that many documents, each cut off at the context length.
        n_tokens: how many tokens instead. With both, a file of either is used, and tokens are
            collected. With neither, ten for each dimension of the largest key.
        dtype: MEMIT's ``mom2_dtype``, of the stored sums: ``float32`` or ``float64``.
        seed: of the order of documents, or of the sampling. 0 takes the documents that EasyEdit takes.
        context: longest row of tokens; None for the model's own with ``n_samples``, as EasyEdit has it, and
            for 512 with tokens.
        progress: called with what is done and the total: tokens, or documents with ``n_samples``.
        save_every: seconds between two writings of unfinished sums.
        block_tokens: tokens after which a block ends; for tests.
        easyedit_samples: also store under the name that EasyEdit looks for with this ``mom2_n_samples``.
        engine: what collects: ``native``, ``easyedit`` (EasyEdit's ``layer_stats``), or a plugin's. The result is the
            same up to rounding, so files on disk are used whichever engine they are from.

    Returns:
        Second moments by module, in the order asked for; with several processes, the same in all.

    Raises:
        CovarianceError: a stored file can't be used, or the keys can't be taken.
        DataError: the corpus can't be had.
        ModelError: there is no such module, or it is no linear projection.
        PluginError: there is no such engine.
    """
    if dtype not in DTYPES:
        raise CovarianceError(f"dtype: {dtype!r} can't hold sums of second moments; use one of {', '.join(DTYPES)}")
    collector = get_plugins().covariance_engines.get(engine)
    job = make_job(
        model,
        modules,
        find_corpus(dataset),
        n_samples=n_samples,
        n_tokens=n_tokens,
        context=context,
        counts_tokens=collector.counts_tokens,
        stats_dir=stats_dir,
        dtype=dtype,
        seed=seed,
        save_every=save_every,
        block_tokens=block_tokens,
    )
    shard = current_shard()

    def find() -> dict[str, Path]:
        found = find_stored(job)
        check_copies(job, easyedit_samples)
        return found

    where = on_first(shard, find)
    moments = {module: read_stored(job, module, path, shard) for module, path in where.items()}
    missing = {module: size for module, size in job.sizes.items() if module not in where}
    if missing:
        rest = replace(job, sizes=missing)
        collector.check(rest.corpus, n_samples, n_tokens)
        moments.update(collector.collect(model, tokenizer, rest, shard, progress))
        where.update(rest.paths)
    on_first(shard, lambda: store_copies(job, where, easyedit_samples))
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
    """Collect second moments E[k kᵀ] of the inputs of some layers' MLP output projections, in one pass.

    What is on disk already isn't collected again; what was interrupted is resumed. Run
    under ``torchrun`` (with a process group set up), the processes share the work.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        layers: numbers of blocks, or paths of modules.
        corpus: a file, folder, dataset name, the texts themselves, or ``self`` for text sampled from the model.
        module_template: path of the module with ``{}`` for the block's number (``rewrite_module_tmp``);
            None for the MLP's output projection, found in the model.
        tokens: how many tokens; the default is ten a dimension.
        samples: how many documents instead, as MEMIT counts.
        out: folder of statistics (``stats_dir``); None for one in this package's cache.
        dtype: of the stored sums: ``float32`` or ``float64``.
        seed: of the order of documents, or of the sampling.
        context: longest row of tokens.
        progress: called with what is done and the total.
        save_every: seconds between two writings of unfinished sums.
        easyedit_samples: also store under the name that EasyEdit's MEMIT looks for with this
            ``mom2_n_samples``. The file then says it holds that many samples, and its sidecar what it really holds.
        engine: what collects: ``native``, ``easyedit``, or a plugin's.

    Returns:
        Second moments by module path.

    Raises:
        CovarianceError: amounts contradict, a stored file can't be used, or the keys can't be taken.
        DataError: the corpus can't be had.
        ModelError: there is no such layer.
        PluginError: there is no such engine.
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
