"""Check the requirements of EasyEdit's own methods, and obtain second moments, before a model is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.bridge.weights import edited_modules
from easyedit_lifelong.covariance import SecondMoment, obtain_moments, regularisation
from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.models.modules import find_module


def check_names(model: Any, tok: Any, hparams: Any) -> None:
    """Check that the model has the modules and weights that the hyperparameters name, and obtain second moments.

    Raises:
        HyperParameterError: the number of a block is out of range.
        ModelError: the model lacks a module or weight.
        LifelongError: there are no second moments, and they can't be collected.
    """
    modules = edited_modules(hparams)
    names = list(modules)
    if hasattr(hparams, "layer_module_tmp"):
        blocks = [*hparams.layers, *([hparams.v_loss_layer] if hasattr(hparams, "v_loss_layer") else [])]
        names += [hparams.layer_module_tmp.format(block) for block in blocks]
    if final_norm := getattr(hparams, "ln_f_module", None):
        names.append(final_norm)
    for name in names:
        find_module(model, name)
    weights = dict(model.named_parameters())
    for module in modules:
        if (weight := f"{module}.weight") not in weights:
            raise ModelError(f"rewrite_module_tmp: {type(model).__name__} has no parameter {weight!r}")
    head = getattr(hparams, "lm_head_module", None)
    if head is not None and f"{head}.weight" not in weights:
        output = getattr(model.get_output_embeddings(), "weight", None)
        tied = [name for name, weight in weights.items() if weight is output]
        hint = f" Its head is tied; write {tied[0].removesuffix('.weight')!r}." if tied else ""
        raise ModelError(f"lm_head_module: {type(model).__name__} has no parameter '{head}.weight'.{hint}")
    second_moments(model, tok, hparams)


def check_subjects(model: Any, tok: Any, hparams: Any, requests: Sequence[EditRequest]) -> None:
    """Check that every request has a subject in its prompt, and no curly brackets.

    Raises:
        DataError: a request can't be used; the message names the record and the field.
    """
    for request in requests if hasattr(hparams, "fact_token") else ():
        for name, text in (("prompt", request.prompt), ("subject", request.subject or "")):
            if "{" in text or "}" in text:
                raise DataError(
                    f"{request.where}, field {name!r}: has a curly bracket, which EasyEdit reads as a template. "
                    "Reword it or leave the record out."
                )
        if not request.subject:
            raise DataError(f"{request.where}, field 'subject': is missing; {hparams.alg_name} edits at the subject")
        if find_subject(request.prompt, request.subject) is None:
            raise DataError(
                f"{request.where}, field 'subject': {request.subject!r} isn't in the prompt {request.prompt!r}. "
                "Spell it as the prompt does, or leave the record out."
            )


def second_moments(model: Any, tok: Any, hparams: Any) -> Mapping[str, Tensor]:
    """Return E[k kᵀ] by module path, read from disk or collected at the first call; empty if the method needs none.

    Returns:
        Float32 tensors of shape ``(d, d)`` on the CPU, where d is the size of the module's keys.

    Raises:
        LifelongError: there are no second moments, and they can't be collected.
    """
    if not hasattr(hparams, "mom2_dataset") or not getattr(hparams, "mom2_adjustment", True):
        return {}
    modules = edited_modules(hparams)
    source = (str(hparams.stats_dir), hparams.mom2_dataset, hparams.mom2_n_samples, hparams.mom2_dtype)
    keys = {module: (*source, module) for module in modules}
    cached = model_state_of(model).moments
    if any(key not in cached for key in keys.values()):
        # mom2_n_samples is a number of documents, as in the paper. Text sampled from the model is counted in tokens.
        self_sampled = find_corpus(hparams.mom2_dataset).self_sampled
        obtained = obtain_moments(
            model,
            tok,
            modules,
            stats_dir=hparams.stats_dir,
            dataset=hparams.mom2_dataset,
            n_samples=None if self_sampled else hparams.mom2_n_samples,
            dtype=hparams.mom2_dtype,
        )
        cached.update({key: _regularised(obtained[module]) for module, key in keys.items()})
    return {module: cached[key] for module, key in keys.items()}


def _regularised(second_moment: SecondMoment) -> Tensor:
    """Return E[k kᵀ] with a larger diagonal if it was collected from too few keys to be invertible."""
    matrix = second_moment.moment.float().cpu().clone()
    matrix.diagonal().add_(regularisation(second_moment.count, len(matrix)) * matrix.diagonal().mean())
    return matrix
