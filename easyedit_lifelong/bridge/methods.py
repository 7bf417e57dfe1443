"""EasyEdit's own methods that rewrite weights (MEMIT, ROME, FT, …), as editing methods of the loops.

Their numbers show what consecutive editing does to a model without hooks. EasyEdit's files stay as
they are; :mod:`easyedit_lifelong.bridge.surroundings` has what the methods need around them.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyedit_lifelong.bridge.locate import PACKAGE, require_easyedit
from easyedit_lifelong.errors import (
    DataError,
    EditError,
    HyperParameterError,
    LifelongError,
    ModelError,
    PluginError,
    did_you_mean,
)

if TYPE_CHECKING:
    from torch import Tensor

    from easyedit_lifelong.covariance.moments import SecondMoment
    from easyedit_lifelong.data.request import EditRequest
    from easyedit_lifelong.registry import EditMethod

_WEIGHTS, _TEMPLATES = "weights.safetensors", "templates.json"
_NEEDED = ("layers", "rewrite_module_tmp")


def easyedit_method(name: str) -> EditMethod:
    """Return one of EasyEdit's own methods, so that the loops can run it.

    Args:
        name: EasyEdit's name of a method that rewrites weights, such as ``MEMIT``.

    Raises:
        EasyEditMissingError: there is no EasyEdit.
        PluginError: EasyEdit has no such method, or it doesn't rewrite weights.
    """
    from easyedit_lifelong.registry import EditMethod

    require_easyedit()
    import easyeditor
    from easyeditor.editors.batch_editor import BatchEditor
    from easyeditor.util.alg_dict import ALG_DICT

    classes = {attribute.lower(): attribute for attribute in dir(easyeditor)}
    own = getattr(easyeditor, classes.get(f"{name.lower()}hyperparams", ""), None) if name in ALG_DICT else None
    if name not in ALG_DICT:
        raise PluginError(f"EasyEdit has no method {name!r}.{did_you_mean(name, ALG_DICT)}")
    fields = {item.name for item in dataclasses.fields(own)} if dataclasses.is_dataclass(own) else set()
    if not isinstance(own, type) or not fields.issuperset(_NEEDED):
        raise PluginError(
            f"EasyEdit's own {name} can't run in this package's loops: only methods that rewrite weights can "
            "(MEMIT, ROME, FT, …), for their edits can be taken back and saved."
        )
    is_batchable = getattr(BatchEditor.is_batchable_method, "__wrapped__", BatchEditor.is_batchable_method)
    return EditMethod(
        name, own, _apply_function(name, ALG_DICT[name]), batchable=bool(is_batchable(name)), check=check_names,
        check_requests=check_subjects, state=RewrittenWeights(),
    )  # fmt: skip


def easyedit_method_for(hparams: Any) -> EditMethod | None:
    """Return EasyEdit's own method that hyperparameters belong to, or None if they aren't EasyEdit's."""
    if type(hparams).__module__.partition(".")[0] != PACKAGE:
        return None
    return easyedit_method(str(getattr(hparams, "alg_name", "")))


def read_easyedit_hparams(path: Path, name: str) -> Any:
    """Read a hyperparameter file of one of EasyEdit's own methods, as strictly as our own.

    Raises:
        HyperParameterError: the file can't be used; the message names every field that is wrong.
        PluginError: EasyEdit has no such method.
    """
    from easyedit_lifelong.hyperparams import coerce, describe_type, read_hparams_file

    cls = easyedit_method(name).hparams_class
    values, hints = read_hparams_file(path), typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    known = {item.name for item in fields}
    problems = [f"unknown hyperparameter {key!r}.{did_you_mean(str(key), known)}" for key in values if key not in known]
    problems += [
        f"{item.name}: missing"
        for item in fields
        if item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
        and item.name not in values
    ]
    for key in known & set(values):
        # EasyEdit calls a device an int, and takes text; a model's folder may be null.
        if key == "device" or values[key] is None:
            continue
        try:
            values[key] = coerce(values[key], hints[key])
        except (TypeError, ValueError):
            problems.append(f"{key}: {values[key]!r} is not {describe_type(hints[key])}")
    if problems:
        raise HyperParameterError(f"{path}: " + "; ".join(sorted(problems)))
    return cls(**values)


def check_names(model: Any, tok: Any, hparams: Any) -> None:
    """Check that the model has the modules and weights that the hyperparameters name, and get the statistics.

    Raises:
        HyperParameterError: a block's number is out of range.
        ModelError: it lacks one.
        LifelongError: there are no statistics, and none can be collected.
    """
    from easyedit_lifelong.models.modules import find_module

    modules = [hparams.rewrite_module_tmp.format(layer) for layer in hparams.layers]
    if hasattr(hparams, "layer_module_tmp"):
        blocks = [*hparams.layers, *([hparams.v_loss_layer] if hasattr(hparams, "v_loss_layer") else [])]
        modules += [hparams.layer_module_tmp.format(layer) for layer in blocks]
    modules += [getattr(hparams, "ln_f_module", None) or modules[0]]
    for name in modules:
        find_module(model, name)
    weights = dict(model.named_parameters())
    for layer in hparams.layers:
        if (weight := f"{hparams.rewrite_module_tmp.format(layer)}.weight") not in weights:
            raise ModelError(f"rewrite_module_tmp: {type(model).__name__} has no parameter {weight!r}")
    head = getattr(hparams, "lm_head_module", None)
    if head is not None and f"{head}.weight" not in weights:
        tied = [name for name, weight in weights.items() if weight is _head_weight(model)]
        hint = f" Its head is tied; write {tied[0].removesuffix('.weight')!r}." if tied else ""
        raise ModelError(f"lm_head_module: {type(model).__name__} has no parameter '{head}.weight'.{hint}")
    _second_moments(model, tok, hparams)


def _head_weight(model: Any) -> Any:
    return getattr(model.get_output_embeddings(), "weight", None)


def check_subjects(model: Any, tok: Any, hparams: Any, requests: Sequence[EditRequest]) -> None:
    """Check that every request has what EasyEdit's templates are made of.

    Raises:
        DataError: one hasn't; the message names the record and the field.
    """
    if not hasattr(hparams, "fact_token"):
        return
    from easyedit_lifelong.methods.coachhook.subjects import find_subject

    for request in requests:
        for name in ("prompt", "subject"):
            if any(brace in (getattr(request, name) or "") for brace in "{}"):
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


def _apply_function(name: str, original: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Return an apply function around EasyEdit's own: all or nothing, and with a way back."""

    def apply(
        model: Any, tok: Any, requests: Sequence[Any], hparams: Any, copy: bool = False,
        return_orig_weights: bool = True, keep_original_weight: bool = False, **kwargs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        import copy as copying

        import torch

        from easyedit_lifelong.bridge.surroundings import around, memory_of
        from easyedit_lifelong.data.request import as_requests
        from easyedit_lifelong.methods.rollback import Rollback

        valid = as_requests(requests)
        check_subjects(model, tok, hparams, valid)
        if copy:
            model = copying.deepcopy(model)
        weights = _rewritten(model, hparams)
        before = {weight: parameter.detach().clone() for weight, parameter in weights.items()}

        def undo() -> None:
            with torch.no_grad():
                for weight, parameter in weights.items():
                    parameter.copy_(before[weight])

        moments = _second_moments(model, tok, hparams)
        records = [_record(request, hparams) for request in valid]
        try:
            with around(model, tok, hparams, moments):
                original(
                    model, tok, records, _on_device(hparams, model), copy=False, return_orig_weights=True,
                    keep_original_weight=True, **kwargs,
                )  # fmt: skip
            broken = [weight for weight, parameter in weights.items() if not torch.isfinite(parameter).all()]
        except LifelongError:
            undo()
            raise
        except Exception as error:  # EasyEdit checks nothing: AssertionError, IndexError, LinAlgError, …
            undo()
            told = " ".join(str(error).split())
            raise EditError(f"{valid[0].where}: EasyEdit's {name} failed: {type(error).__name__}: {told}") from error
        except BaseException:
            undo()
            raise
        if broken:
            undo()
            raise EditError(f"{valid[0].where}: EasyEdit's {name} made {broken[0]} infinite or not a number")
        memory_of(model).weights = list(weights)
        return model, Rollback(undo, on_items=keep_original_weight)

    return apply


def _rewritten(model: Any, hparams: Any) -> dict[str, Any]:
    names = [f"{hparams.rewrite_module_tmp.format(layer)}.weight" for layer in hparams.layers]
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in names}


def _record(request: EditRequest, hparams: Any) -> dict[str, Any]:
    """Return a request as EasyEdit takes it; a subject that comes twice is marked where it comes last."""
    prompt = request.prompt
    if hasattr(hparams, "fact_token") and request.subject and prompt.count(request.subject) > 1:
        from easyedit_lifelong.methods.coachhook.subjects import find_subject

        start, end = find_subject(prompt, request.subject) or (0, 0)
        prompt = prompt[:start] + "{}" + prompt[end:]
    return {
        "case_id": request.case_id, "prompt": prompt, "target_new": request.target_new,
        "subject": request.subject, "ground_truth": request.ground_truth or "",
    }  # fmt: skip


def _on_device(hparams: Any, model: Any) -> Any:
    """Return hyperparameters that name the model's device, in a form that every flavour of EasyEdit takes."""
    device = model.get_input_embeddings().weight.device
    return dataclasses.replace(hparams, device=device.index if device.type == "cuda" else str(device))


def _second_moments(model: Any, tok: Any, hparams: Any) -> Mapping[str, Tensor]:
    """Return E[kkᵀ] by module path, read or collected once; nothing for methods that need none.

    Raises:
        LifelongError: there are no statistics, and none can be collected.
    """
    if not hasattr(hparams, "mom2_dataset") or not getattr(hparams, "mom2_adjustment", True):
        return {}
    from easyedit_lifelong.bridge.surroundings import memory_of
    from easyedit_lifelong.covariance import obtain_moments
    from easyedit_lifelong.covariance.corpus import find_corpus

    modules = [hparams.rewrite_module_tmp.format(layer) for layer in hparams.layers]
    source = (str(hparams.stats_dir), hparams.mom2_dataset, hparams.mom2_n_samples, hparams.mom2_dtype)
    keys = {module: (*source, module) for module in modules}
    known = memory_of(model).moments
    if any(key not in known for key in keys.values()):
        # Documents are counted of a real corpus, as the paper does; of the model's own text, tokens.
        own_text = find_corpus(hparams.mom2_dataset).self_sampled
        found = obtain_moments(
            model, tok, modules, stats_dir=hparams.stats_dir, dataset=hparams.mom2_dataset,
            n_samples=None if own_text else hparams.mom2_n_samples, dtype=hparams.mom2_dtype,
        )  # fmt: skip
        known.update({key: _regular(found[module]) for module, key in keys.items()})
    return {module: known[key] for module, key in keys.items()}


def _regular(found: SecondMoment) -> Tensor:
    """Return second moments that can be solved with, however few keys they were taken of."""
    from easyedit_lifelong.covariance.moments import regularisation

    moment = found.moment.float().cpu().clone()
    share = regularisation(found.count, len(moment))
    moment.diagonal().add_(share * moment.diagonal().mean())
    return moment


class RewrittenWeights:
    """Keeps the edits of a method that rewrites weights: the weights, and the templates it goes on with."""

    def save(self, model: Any, folder: Path) -> None:
        """Write the rewritten weights, whole."""
        from safetensors.torch import save_file

        from easyedit_lifelong.bridge.surroundings import memory_of

        memory = memory_of(model)
        parameters = dict(model.named_parameters())
        save_file({name: parameters[name].detach().contiguous() for name in memory.weights}, folder / _WEIGHTS)
        templates = [[*where, value] for where, value in memory.caches.items() if where[1] == "CONTEXT_TEMPLATES_CACHE"]
        (folder / _TEMPLATES).write_text(json.dumps(templates, ensure_ascii=False), encoding="utf-8")

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        """Put the rewritten weights into an unedited model.

        Raises:
            ModelError: they are another model's.
        """
        import torch
        from safetensors.torch import load_file

        from easyedit_lifelong.bridge.surroundings import memory_of

        saved, weights = load_file(folder / _WEIGHTS), _rewritten(model, hparams)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        if {name: tuple(weight.shape) for name, weight in saved.items()} != shapes:
            raise ModelError(f"{folder / _WEIGHTS}: holds other weights than this model's {', '.join(weights)}")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])
        memory = memory_of(model)
        memory.weights = list(weights)
        for module, name, value in json.loads((folder / _TEMPLATES).read_text(encoding="utf-8")):
            memory.caches[module, name] = value
