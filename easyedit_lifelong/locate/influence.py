"""Influence functions (Koh and Liang 2017, arXiv 1703.04730) with EK-FAC, through the package kronfluence.

The influence of one of N texts z on the loss L(q) of an answer is ∇L(z)ᵀ(H + λ)⁻¹∇L(q). To first order, this is N times
the growth of L(q) if the text had been left out of a training that ended at a minimum. H is the Gauss-Newton matrix of
the mean loss of the texts. EK-FAC (Grosse et al. 2023, arXiv 2308.03296) computes it for each layer alone, in the basis
of the eigenvectors of the second moments of the layer's inputs and of the gradients of its outputs, and keeps its
diagonal there.

This module imports kronfluence, which is an extra. Import it where it is used.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from kronfluence.analyzer import Analyzer
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.module.linear import TrackedLinear
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from kronfluence.utils.state import State
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.locate.attributed_rows import LabelledRow, PaddedRows, pad, predictions, token_losses
from easyedit_lifelong.models.encoding import IGNORED
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.model_modes import kept_random_states
from easyedit_lifelong.models.runner import Runner

_ROWS_PER_PASS = 8
"""Rows in one pass. kronfluence holds the gradient of a layer's weight for each of them."""

_NAME = "attribution"


class LanguageModelling(Task):
    """kronfluence's description of the model and its losses.

    Args:
        runner: runs the model.
        seed: seed of the labels that are sampled from the model.
        report: called with the number of rows after each pass.
    """

    def __init__(self, runner: Runner, seed: int, report: Callable[[int], None]) -> None:
        self._runner, self._report = runner, report
        self._generator = torch.Generator(runner.device).manual_seed(seed)

    def compute_train_loss(self, batch: Mapping[str, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        """Return the sum of the rows' mean losses.

        With ``sample``, labels are drawn from the model, and each row's sum over its n tokens is divided by √n: the
        second moments of the gradients are then the Gauss-Newton matrix of the mean loss, since the gradients of
        different tokens with sampled labels are uncorrelated.
        """
        rows = PaddedRows(**batch)
        logits, targets = predictions(self._runner, rows), rows.targets
        counts = (targets != IGNORED).sum(dim=1)
        if sample:
            targets = torch.where(targets == IGNORED, targets, sampled_labels(logits.detach(), self._generator))
        self._report(len(rows.ids))
        return (token_losses(logits, targets).sum(dim=1) / (counts.sqrt() if sample else counts)).sum()

    def compute_measurement(self, batch: Mapping[str, Tensor], model: nn.Module) -> Tensor:
        """Return the loss of the answer."""
        return self.compute_train_loss(batch, model)

    def get_attention_mask(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return which tokens aren't padding."""
        return batch["mask"]


def influence_scores(
    runner: Runner,
    modules: Mapping[str, nn.Module],
    rows: Sequence[LabelledRow],
    query: LabelledRow,
    *,
    normalise: bool,
    strategy: str = "ekfac",
    damping: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return the influence of each row on the query: ∇L(z)ᵀ(H + λ)⁻¹∇L(q).

    A bias of a layer counts as one more column of its weight. Factors are written to a temporary folder.

    Args:
        runner: runs the model.
        modules: the linear layers by path, whose weights count.
        rows: the texts.
        query: the answer.
        normalise: divide by √(∇Lᵀ(H + λ)⁻¹∇L) of the text and of the answer.
        strategy: kronfluence's name of the approximation of H: ``ekfac``, ``kfac``, ``diagonal``, or ``identity``.
        damping: λ; None for a tenth of the mean eigenvalue of each layer.
        seed: seed of the labels that are sampled from the model to estimate H.
        progress: called with the number of rows done, and of all rows, in all passes together.

    Raises:
        ModelError: the model is on several devices, or on one that kronfluence doesn't use.
    """
    _check_device(runner)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    in_order = [rows[index] for index in order]
    n_passes, done = (0 if strategy == "identity" else 2) + (2 if normalise else 1), 0

    def report(count: int) -> None:
        nonlocal done
        done = min(done + count, n_passes * len(rows))
        if progress is not None:
            progress(done, n_passes * len(rows))

    with (
        _tracked(runner.model, modules),
        kept_random_states(),  # torch's data loaders draw from the global generator
        _without_future_warnings(),
        tempfile.TemporaryDirectory(prefix="easyedit-lifelong-") as folder,
    ):
        analyzer = _analyzer(runner, LanguageModelling(runner, seed, report), folder)
        dtype = torch.promote_types(runner.model.dtype, torch.float32)
        analyzer.fit_all_factors(_NAME, in_order, _ROWS_PER_PASS, factor_args=_factor_arguments(strategy, dtype))
        arguments = _score_arguments(damping, dtype)
        analyzer.compute_pairwise_scores(
            _NAME, _NAME, [query], in_order, 1, per_device_train_batch_size=_ROWS_PER_PASS, score_args=arguments
        )
        scores = analyzer.load_pairwise_scores(_NAME)["all_modules"][0].double()
        if normalise:
            scores /= _own_influence(analyzer, "rows", in_order, arguments).sqrt()
            scores /= _own_influence(analyzer, "query", [query], arguments).sqrt()
    result = torch.zeros(len(rows), dtype=torch.float64)
    result[order] = scores.nan_to_num()  # a gradient without length has no direction
    return result.tolist()


def sampled_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a label from each distribution: logits ``(rows, tokens, vocabulary)`` to ``(rows, tokens)``."""
    drawn = torch.multinomial(logits.flatten(0, 1).softmax(dim=1), 1, generator=generator)
    return drawn.view(logits.shape[:2])


@contextlib.contextmanager
def _tracked(model: Any, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put kronfluence's wrappers in the place of the modules, and put the modules back at the end.

    kronfluence's own ``prepare_model`` leaves its wrappers in the model, and accepts ``nn.Linear`` alone. Its
    computations need only a layer's inputs and gradients, so they also fit GPT-2's layers (transposed weights).
    """
    parents = {path: (model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in modules}
    try:
        for path, module in modules.items():
            setattr(*parents[path], TrackedLinear(name=path, original_module=module))
        yield
    finally:
        for path, module in modules.items():
            setattr(*parents[path], module)


@contextlib.contextmanager
def _without_future_warnings() -> Iterator[None]:
    """Hide warnings about functions of torch that kronfluence calls by former names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _analyzer(runner: Runner, task: Task, folder: str) -> Analyzer:
    """Return kronfluence's analyzer for the runner's model."""
    State._reset_state()  # otherwise, kronfluence uses the device of the first analysis of the process
    with torch.cuda.device(runner.device) if runner.device.type == "cuda" else contextlib.nullcontext():
        analyzer = Analyzer(
            _NAME, runner.model, task, cpu=runner.device.type == "cpu", disable_tqdm=True, output_dir=folder
        )

    def collate(rows: Sequence[LabelledRow]) -> dict[str, Tensor]:
        return vars(pad(runner, rows))

    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collate))
    return analyzer


def _own_influence(analyzer: Analyzer, name: str, rows: Sequence[LabelledRow], arguments: ScoreArguments) -> Tensor:
    """Return ∇Lᵀ(H + λ)⁻¹∇L of each row."""
    analyzer.compute_self_scores(name, _NAME, rows, per_device_train_batch_size=_ROWS_PER_PASS, score_args=arguments)
    return analyzer.load_self_scores(name)["all_modules"].double()


def _factor_arguments(strategy: str, dtype: torch.dtype) -> FactorArguments:
    return FactorArguments(
        strategy=strategy,
        covariance_max_examples=None,
        lambda_max_examples=None,
        activation_covariance_dtype=dtype,
        gradient_covariance_dtype=dtype,
        per_sample_gradient_dtype=dtype,
        lambda_dtype=dtype,
    )


def _score_arguments(damping: float | None, dtype: torch.dtype) -> ScoreArguments:
    return ScoreArguments(
        damping_factor=damping, per_sample_gradient_dtype=dtype, precondition_dtype=dtype, score_dtype=dtype
    )


def _check_device(runner: Runner) -> None:
    devices = {parameter.device for parameter in runner.model.parameters()}
    if len(devices) > 1 or runner.device.type not in ("cpu", "cuda"):
        raise ModelError(
            f"{model_label(runner.model)}: is on {', '.join(sorted(map(str, devices)))}; EK-FAC needs a model on "
            "the CPU or on one CUDA device"
        )
