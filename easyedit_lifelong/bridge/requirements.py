"""Check the requirements of EasyEdit's own methods, and obtain second moments, before a model is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.bridge.method_names import easyedit_name
from easyedit_lifelong.bridge.weights import base_of, edited_modules
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
    modules, hparams = edited_modules(hparams), base_of(hparams)
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
            field = "inner_params" if hasattr(hparams, "inner_params") else "rewrite_module_tmp"
            raise ModelError(f"{field}: {type(model).__name__} has no parameter {weight!r}")
    head = getattr(hparams, "lm_head_module", None)
    if head is not None and f"{head}.weight" not in weights:
        output = getattr(model.get_output_embeddings(), "weight", None)
        tied = [name for name, weight in weights.items() if weight is output]
        hint = f" Its head is tied; write {tied[0].removesuffix('.weight')!r}." if tied else ""
        raise ModelError(f"lm_head_module: {type(model).__name__} has no parameter '{head}.weight'.{hint}")
    second_moments(model, tok, hparams)


def check_subjects(model: Any, tok: Any, hparams: Any, requests: Sequence[EditRequest]) -> None:
    """Check that every request has a subject in its prompt, and neither curly brackets nor a joiner.

    Raises:
        DataError: a request can't be used; the message names the record and the field.
    """
    name, hparams = easyedit_name(hparams.alg_name), base_of(hparams)
    check_prompt_form(name, requests)
    for request in requests if hasattr(hparams, "fact_token") else ():
        for field, text in (("prompt", request.prompt), ("subject", request.subject or "")):
            if "{" in text or "}" in text:
                raise DataError(
                    f"{request.where}, field {field!r}: has a curly bracket, which EasyEdit reads as a template. "
                    "Reword it or leave the record out."
                )
        if not request.subject:
            raise DataError(f"{request.where}, field 'subject': is missing; {name} edits at the subject")
        if find_subject(request.prompt, request.subject) is None:
            raise DataError(
                f"{request.where}, field 'subject': {request.subject!r} isn't in the prompt {request.prompt!r}. "
                "Spell it as the prompt does, or leave the record out."
            )
        if name in _ONE_SUBJECT and request.prompt.count(request.subject) > 1:
            raise DataError(
                f"{request.where}, field 'prompt': has the subject {request.subject!r} more than once, which "
                f"EasyEdit's {name} can't edit. Reword it or leave the record out."
            )


def check_prompt_form(name: str, requests: Sequence[EditRequest]) -> None:
    """Check that no request has a joiner or is in chat form: EasyEdit's methods put a space before every target.

    Args:
        name: the method's name in EasyEdit.
        requests: the requests.

    Raises:
        DataError: a request has a joiner or is in chat form.
    """
    for request in requests:
        if request.question_span is not None:
            raise DataError(
                f"{request.where}: EasyEdit's {name} does not edit prompts in chat form. Leave --chat out ("
                "'chat' in a YAML file), or edit with a method of this package."
            )
        if request.joiner is not None:
            raise DataError(
                f"{request.where}, field 'joiner': EasyEdit's {name} puts a space between prompt and target. Leave the "
                "field out, or edit with a method of this package."
            )


_ONE_SUBJECT = ("AlphaEdit", "SimIE")
"""Methods that need the subject exactly once in the prompt: AlphaEdit replaces every occurrence by a placeholder, and
SimIE also runs the model on the prompt, which must not have a placeholder."""


def second_moments(model: Any, tok: Any, hparams: Any) -> Mapping[str, Tensor]:
    """Return E[k kᵀ] by module path, read from disk or collected at the first call; empty if the method needs none.

    Returns:
        Float32 tensors of shape ``(d, d)`` on the CPU, where d is the size of the module's keys.

    Raises:
        LifelongError: there are no second moments, and they can't be collected.
    """
    hparams = base_of(hparams)
    if not hasattr(hparams, "mom2_dataset") or not getattr(hparams, "mom2_adjustment", True):
        return {}
    modules, source = edited_modules(hparams), moments_source(hparams)
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


def moments_source(hparams: Any) -> tuple[Any, ...]:
    """Return the settings that determine the second moments of a module."""
    return (str(hparams.stats_dir), hparams.mom2_dataset, hparams.mom2_n_samples, hparams.mom2_dtype)


def inverse_moments(model: Any, hparams: Any, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inverses of second moments if the method needs them (ROME and R-ROME); they are cached.

    Args:
        model: the model.
        hparams: EasyEdit's hyperparameters.
        moments: the second moments by module path.
    """
    hparams = base_of(hparams)
    # The other methods weight the second moments.
    if hasattr(hparams, "mom2_update_weight") or not moments:
        return {}
    cached, source = model_state_of(model).moments, moments_source(hparams)
    keys = {module: (*source, module, "inverse") for module in moments}
    for module, key in keys.items():
        if key not in cached:
            cached[key] = moments[module].double().inverse().float()
    return {module: cached[key] for module, key in keys.items()}


def _regularised(second_moment: SecondMoment) -> Tensor:
    """Return E[k kᵀ] with a larger diagonal if it was collected from too few keys to be invertible."""
    matrix = second_moment.moment.float().cpu().clone()
    matrix.diagonal().add_(regularisation(second_moment.count, len(matrix)) * matrix.diagonal().mean())
    return matrix
