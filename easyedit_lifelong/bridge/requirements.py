"""What EasyEdit's own methods require of a model and of requests: checked, and obtained, before anything is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from easyedit_lifelong.bridge.context import memory_of
from easyedit_lifelong.bridge.weights import edited_modules
from easyedit_lifelong.covariance import SecondMoment, obtain_moments, regularisation
from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.models.modules import find_module


def check_names(model: Any, tok: Any, hparams: Any) -> None:
    """Check that the model has the modules and weights that the hyperparameters name, and get the statistics.

    Raises:
        HyperParameterError: a block's number is out of range.
        ModelError: it lacks one.
        LifelongError: there are no statistics, and none can be collected.
    """
    modules = edited_modules(hparams)
    blocks = [*hparams.layers, *([hparams.v_loss_layer] if hasattr(hparams, "v_loss_layer") else [])]
    templates = [hparams.layer_module_tmp] if hasattr(hparams, "layer_module_tmp") else []
    final = getattr(hparams, "ln_f_module", None) or modules[0]
    for name in (*modules, *(template.format(block) for template in templates for block in blocks), final):
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
    """Check that every request has what EasyEdit's templates are made of.

    Raises:
        DataError: one hasn't; the message names the record and the field.
    """
    for request in requests if hasattr(hparams, "fact_token") else ():
        for name, text in (("prompt", request.prompt), ("subject", request.subject or "")):
            if "{" in text or "}" in text:
                raise DataError(
                    f"{request.where}, field {name!r}: has a curly bracket, which EasyEdit takes for a template's. "
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
    """Return E[kkᵀ] by module path, read or collected once; nothing for methods that need none.

    Raises:
        LifelongError: there are no statistics, and none can be collected.
    """
    if not hasattr(hparams, "mom2_dataset") or not getattr(hparams, "mom2_adjustment", True):
        return {}
    modules = edited_modules(hparams)
    source = (str(hparams.stats_dir), hparams.mom2_dataset, hparams.mom2_n_samples, hparams.mom2_dtype)
    keys = {module: (*source, module) for module in modules}
    known = memory_of(model).moments
    if any(key not in known for key in keys.values()):
        # Documents are counted of a real corpus, as the paper does; of the model's own text, tokens.
        self_sampled = find_corpus(hparams.mom2_dataset).self_sampled
        found = obtain_moments(
            model,
            tok,
            modules,
            stats_dir=hparams.stats_dir,
            dataset=hparams.mom2_dataset,
            n_samples=None if self_sampled else hparams.mom2_n_samples,
            dtype=hparams.mom2_dtype,
        )
        known.update({key: _regular(found[module]) for module, key in keys.items()})
    return {module: known[key] for module, key in keys.items()}


def _regular(found: SecondMoment) -> Tensor:
    """Return second moments that can be solved with, however few keys they were taken of."""
    moment = found.moment.float().cpu().clone()
    moment.diagonal().add_(regularisation(found.count, len(moment)) * moment.diagonal().mean())
    return moment
