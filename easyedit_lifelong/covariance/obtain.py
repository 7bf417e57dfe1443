"""Second moments, found on disk or collected: what editors and users call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.covariance.derive import check_copies, stand_in
from easyedit_lifelong.covariance.files import model_folders, moments_file
from easyedit_lifelong.covariance.layers import key_sizes, layer_modules
from easyedit_lifelong.covariance.lookup import (
    Wanted,
    identity_of,
    longest_row,
    look,
    paths_of,
    read_found,
)
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.plan import Amount
from easyedit_lifelong.covariance.run import Collection, collect
from easyedit_lifelong.covariance.shards import current_shard, on_first
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.fingerprint import model_fingerprint

TOKENS_PER_DIMENSION = 10
"""Tokens per key dimension that are taken where nobody says how many."""
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
            collected. With neither, :data:`TOKENS_PER_DIMENSION` for each dimension of the largest key.
        dtype: MEMIT's ``mom2_dtype``, of the stored sums: ``float32`` or ``float64``.
        seed: of the order of documents, or of the sampling. 0 takes the documents that EasyEdit takes.
        context: longest row of tokens; None for the model's own with ``n_samples``, as EasyEdit has it, and
            for :data:`TOKENS_CONTEXT` with tokens.
        progress: called with what is done and the total: tokens, or documents with ``n_samples``.
        save_every: seconds between two writings of unfinished sums.
        block_tokens: tokens after which a block ends; for tests.
        easyedit_samples: also store under the name that EasyEdit looks for with this ``mom2_n_samples``.

    Returns:
        Second moments by module, in the order asked for; with several processes, the same in all.

    Raises:
        CovarianceError: a stored file can't be used, or the keys can't be taken.
        DataError: the corpus can't be had.
        ModelError: there is no such module, or it is no linear projection.
    """
    if dtype not in DTYPES:
        raise CovarianceError(f"dtype: {dtype!r} can't hold sums of second moments; use one of {', '.join(DTYPES)}")
    sizes = key_sizes(model, modules)
    if n_samples is None and n_tokens is None:
        n_tokens = TOKENS_PER_DIMENSION * max(sizes.values())
    amount = Amount(tokens=n_tokens) if n_tokens is not None else Amount(samples=n_samples)
    wanted = Wanted(
        sizes, find_corpus(dataset), amount, n_samples, longest_row(model, amount, context), context,
        stats_dir, dtype, seed,
    )  # fmt: skip
    shard = current_shard()
    fingerprints: list[str] = []

    def fingerprint() -> str:
        if not fingerprints:
            fingerprints.append(model_fingerprint(model))
        return fingerprints[0]

    found: dict[str, SecondMoment] = {}
    copies = _copies(model, wanted, easyedit_samples)
    where = on_first(shard, lambda: _checked(look(model, wanted, fingerprint, found), copies, easyedit_samples))
    read_found(where, wanted, shard, found)
    missing = {module: d for module, d in sizes.items() if module not in where}
    if missing:
        paths = paths_of(model, wanted, missing)
        job = Collection(
            sizes=missing,
            identities={module: identity_of(model, wanted, module, fingerprint()) for module in missing},
            corpus=wanted.corpus, amount=amount, context=wanted.context, seed=seed, dtype=dtype, paths=paths,
            save_every=save_every, block_tokens=block_tokens,
        )  # fmt: skip
        found.update(collect(model, tokenizer, job, shard, progress))
        where = {**where, **paths}
    if easyedit_samples is not None:
        on_first(shard, lambda: _offer(where, copies, easyedit_samples))
    return {module: found[module] for module in sizes}


def _offer(where: dict[str, Path], copies: dict[str, list[Path]], samples: int) -> None:
    for module, path in where.items():
        stand_in(path, copies[module], samples)


def _copies(model: Any, wanted: Wanted, samples: int | None) -> dict[str, list[Path]]:
    """Return the names under which EasyEdit, in either flavour, looks for so many samples."""
    if samples is None:
        return {}
    return {
        module: [
            moments_file(wanted.stats_dir, model, module, wanted.corpus.label, wanted.dtype, samples, folder=folder)
            for folder in model_folders(model)
        ]
        for module in wanted.sizes
    }


def _checked(where: dict[str, Path], copies: dict[str, list[Path]], samples: int | None) -> dict[str, Path]:
    if samples is not None:
        for files in copies.values():
            check_copies(files, samples)
    return where


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
) -> dict[str, SecondMoment]:
    """Collect second moments E[k kᵀ] of the inputs of some layers' MLP output projections, in one pass.

    What is on disk already isn't collected again; what was interrupted goes on where it was. Run
    under ``torchrun`` (with a process group set up), the processes share the work.

    Args:
        model: causal language model.
        tokenizer: its tokenizer.
        layers: numbers of blocks, or paths of modules.
        corpus: a file, folder, dataset name, the texts themselves, or ``self`` for text sampled from the model.
        module_template: path of the module with ``{}`` for the block's number (``rewrite_module_tmp``);
            None for the MLP's output projection, found in the model.
        tokens: how many tokens; the default is :data:`TOKENS_PER_DIMENSION` a dimension.
        samples: how many documents instead, as MEMIT counts.
        out: folder of statistics (``stats_dir``); None for one in this package's cache.
        dtype: of the stored sums: ``float32`` or ``float64``.
        seed: of the order of documents, or of the sampling.
        context: longest row of tokens.
        progress: called with what is done and the total.
        save_every: seconds between two writings of unfinished sums.
        easyedit_samples: also store under the name that EasyEdit's MEMIT looks for with this
            ``mom2_n_samples``. The file then says it holds that many samples, and its sidecar what it really holds.

    Returns:
        Second moments by module path.

    Raises:
        CovarianceError: amounts contradict, a stored file can't be used, or the keys can't be taken.
        DataError: the corpus can't be had.
        ModelError: there is no such layer.
    """
    if tokens is not None and samples is not None:
        raise CovarianceError("give either tokens or samples, not both")
    return obtain_moments(
        model, tokenizer, layer_modules(model, layers, module_template), stats_dir=out, dataset=corpus,
        n_samples=samples, n_tokens=tokens, dtype=dtype, seed=seed, context=context, progress=progress,
        save_every=save_every, easyedit_samples=easyedit_samples,
    )  # fmt: skip
