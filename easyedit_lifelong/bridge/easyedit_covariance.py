"""The engine ``easyedit``: collects second moments with the function ``layer_stats`` of EasyEdit's MEMIT code."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from easyedit_lifelong.bridge.easyedit_location import PACKAGE, require_easyedit
from easyedit_lifelong.bridge.method_context import device_name, printing_to_log
from easyedit_lifelong.bridge.wrapping import replaced
from easyedit_lifelong.covariance.blocks import text_prefix
from easyedit_lifelong.covariance.corpus import Corpus
from easyedit_lifelong.covariance.job import Job
from easyedit_lifelong.covariance.moments import MomentSum, SecondMoment
from easyedit_lifelong.covariance.npz import check_writable
from easyedit_lifelong.covariance.shards import Shard, on_first_process
from easyedit_lifelong.covariance.stored import read_stored, store
from easyedit_lifelong.errors import CovarianceError, LifelongError
from easyedit_lifelong.models.model_modes import evaluating

_BATCH = 100
"""Documents in a batch of ``layer_stats``."""


def check(corpus: Corpus, n_samples: int | None, n_tokens: int | None) -> None:
    """Check that EasyEdit is installed and can collect from this corpus.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        CovarianceError: EasyEdit can't read the corpus, or no number of documents is given.
    """
    require_easyedit()
    if corpus.self_sampled:
        raise CovarianceError(
            "engine easyedit: EasyEdit can't read text that is sampled from the model itself. Give a file, a folder or "
            "a dataset as the corpus, or use the engine native."
        )
    if n_samples is None:
        raise CovarianceError(
            "engine easyedit: EasyEdit counts documents, not tokens. Give a number of samples (mom2_n_samples), or use "
            "the engine native."
        )


def collect(
    model: Any, tokenizer: Any, job: Job, shard: Shard, progress: Callable[[int, int], None] | None = None
) -> dict[str, SecondMoment]:
    """Collect second moments with one pass over the corpus for each module, and store them.

    With several processes, only the first one collects.

    Raises:
        CovarianceError: EasyEdit fails, the documents hold no tokens, or a file can't be written.
        DataError: the corpus can't be obtained.
    """

    def collect_and_store() -> None:
        began = time.monotonic()
        check_writable(next(iter(job.paths.values())).parent)
        documents = job.corpus.open()
        with evaluating(model), printing_to_log(), torch.random.fork_rng():
            sums = {
                module: _layer_stats(model, tokenizer, job, module, documents, number, progress)
                for number, module in enumerate(job.sizes)
            }
        seconds = round(time.monotonic() - began, 1)
        # EasyEdit orders the documents with seed 0.
        store(
            replace(job, seed=0),
            sums,
            min(job.amount.total, len(documents)),
            engine="easyedit",
            processes=1,
            seconds=seconds,
        )

    on_first_process(shard, collect_and_store)
    return {module: read_stored(job, module, path, shard) for module, path in job.paths.items()}


def _layer_stats(
    model: Any,
    tokenizer: Any,
    job: Job,
    module: str,
    documents: Sequence[str],
    passes_done: int,
    progress: Callable[[int, int], None] | None,
) -> MomentSum:
    """Return the sum of k kᵀ of one module, computed by ``layer_stats``.

    Args:
        model: the causal language model.
        tokenizer: its tokenizer.
        job: what to collect.
        module: path of the module.
        documents: the documents of the corpus.
        passes_done: the number of modules that were collected before, for the progress.
        progress: called with the documents read and the total, over the passes of all modules.
    """
    stats_module: Any = importlib.import_module(f"{PACKAGE}.models.rome.layer_stats")
    tally, n_prefix = stats_module.tally, len(text_prefix(tokenizer))
    samples = min(job.amount.total, len(documents))

    def report_progress(batches: Iterable[Any], total: int) -> Iterator[Any]:
        for number, batch in enumerate(batches, 1):
            yield batch
            if progress is not None:
                progress(passes_done * samples + min(number * _BATCH, samples), samples * len(job.sizes))

    with (
        tempfile.TemporaryDirectory() as folder,
        replaced(
            stats_module,
            load_dataset=lambda *names: {"train": documents},
            TokenizedDataset=_truncating(stats_module.TokenizedDataset, job.context, n_prefix),
            # No worker processes: they would hide errors of the corpus.
            tally=lambda *args, **options: tally(*args, **{**options, "num_workers": 0, "pin_memory": False}),
        ),
    ):
        try:
            stat = stats_module.layer_stats(
                model,
                tokenizer,
                module,
                folder,
                "wikitext",
                ["mom2"],
                sample_size=job.amount.total,
                precision=job.dtype,
                progress=report_progress,
                force_recompute=True,
                hparams=SimpleNamespace(device=device_name(model)),
            ).mom2
        except LifelongError:
            raise
        except Exception as error:  # EasyEdit doesn't validate its input, so any exception is possible
            detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise CovarianceError(f"{module}: EasyEdit's layer_stats failed: {detail}") from error
    if not stat.count:
        raise CovarianceError(f"corpus {job.corpus.label!r}: its documents hold no tokens")
    return MomentSum.of(stat.mom2, stat.count, module)


def _truncating(dataset_class: Any, context: int, n_prefix: int) -> type:
    """Return a subclass of EasyEdit's dataset that truncates documents; a document without tokens gives no keys.

    Args:
        dataset_class: the class ``TokenizedDataset``.
        context: the length to which documents are truncated, in tokens.
        n_prefix: the number of special tokens with which every encoded text begins.
    """

    class TruncatedDataset(dataset_class):
        """EasyEdit's dataset, truncated to the job's context length."""

        def __init__(self, texts: Any, tokenizer: Any, maxlen: int) -> None:
            super().__init__(texts, tokenizer, maxlen=context, field=None)

        def __getitem__(self, index: int) -> dict[str, Any]:
            item = super().__getitem__(index)
            if len(item["input_ids"]) > n_prefix:
                return item
            return {name: ids[:0] for name, ids in item.items()}

    return TruncatedDataset
