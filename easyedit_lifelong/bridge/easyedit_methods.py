"""EasyEdit's own methods that rewrite weights (MEMIT, ROME, FT, …), as editing methods of the loops.

Their numbers show what consecutive editing does to a model without hooks. EasyEdit's files stay as
they are; :mod:`easyedit_lifelong.bridge.context` has what the methods need around them.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyedit_lifelong.bridge.locate import PACKAGE, require_easyedit
from easyedit_lifelong.bridge.requirements import check_names, check_subjects, second_moments
from easyedit_lifelong.bridge.weights import RewrittenWeights, rewritten
from easyedit_lifelong.errors import (
    EditError,
    HyperParameterError,
    LifelongError,
    PluginError,
    did_you_mean,
)

if TYPE_CHECKING:
    from easyedit_lifelong.data.request import EditRequest
    from easyedit_lifelong.methods.base import EditMethod

_NEEDED = ("layers", "rewrite_module_tmp")


def easyedit_method(name: str) -> EditMethod:
    """Return one of EasyEdit's own methods, so that the loops can run it.

    Args:
        name: EasyEdit's name of a method that rewrites weights, such as ``MEMIT``.

    Raises:
        EasyEditMissingError: there is no EasyEdit.
        PluginError: EasyEdit has no such method, or it doesn't rewrite weights.
    """
    from easyedit_lifelong.methods.base import EditMethod
    from easyedit_lifelong.snapshots import Snapshots

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
        check_requests=check_subjects, state=Snapshots(RewrittenWeights()),
    )  # fmt: skip


def easyedit_method_for(hparams: Any) -> EditMethod | None:
    """Return EasyEdit's own method that hyperparameters belong to, or None if they aren't EasyEdit's."""
    if type(hparams).__module__.partition(".")[0] != PACKAGE:
        return None
    return easyedit_method(str(getattr(hparams, "alg_name", "")))


def read_easyedit_hparams(path: Path, name: str) -> Any:
    """Read a hyperparameter file of one of EasyEdit's own methods, as strictly as our own; see below."""
    from easyedit_lifelong.hparams_files import read_hparams_file

    return easyedit_hparams(read_hparams_file(path), name, str(path))


def easyedit_hparams(values: Mapping[str, Any], name: str, source: str) -> Any:
    """Return the hyperparameters of one of EasyEdit's own methods, checked as strictly as our own.

    Args:
        values: as a hyperparameter file holds them.
        name: the method's.
        source: where they come from, for messages.

    Raises:
        HyperParameterError: the file can't be used; the message names every field that is wrong.
        PluginError: EasyEdit has no such method.
    """
    from easyedit_lifelong.hyperparams import coerce, describe_type

    cls = easyedit_method(name).hparams_class
    values, hints = dict(values), typing.get_type_hints(cls)
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
        # EasyEdit calls a device an int, and takes text; a model's folder may be null; its files switch a number off
        # with false (norm_constraint).
        if key == "device" or values[key] is None or (values[key] is False and hints[key] is float):
            continue
        try:
            values[key] = coerce(values[key], hints[key])
        except (TypeError, ValueError):
            problems.append(f"{key}: {values[key]!r} is not {describe_type(hints[key])}")
    if problems:
        raise HyperParameterError(f"{source}: " + "; ".join(sorted(problems)))
    return cls(**values)


def _apply_function(name: str, original: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Return an apply function around EasyEdit's own: all or nothing, and with a way back."""

    def apply(
        model: Any, tok: Any, requests: Sequence[Any], hparams: Any, copy: bool = False,
        return_orig_weights: bool = True, keep_original_weight: bool = False, **kwargs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        import copy as copying

        import torch

        from easyedit_lifelong.bridge.context import around, memory_of
        from easyedit_lifelong.data.request import as_requests
        from easyedit_lifelong.methods.shared.rollback import Rollback

        valid = as_requests(requests)
        check_subjects(model, tok, hparams, valid)
        if copy:
            model = copying.deepcopy(model)
        weights = rewritten(model, hparams)
        before = {weight: parameter.detach().clone() for weight, parameter in weights.items()}
        memory = memory_of(model)
        rewritten_before = list(memory.weights)

        def undo() -> None:
            with torch.no_grad():
                for weight, parameter in weights.items():
                    parameter.copy_(before[weight])
            memory.weights = list(rewritten_before)

        moments = second_moments(model, tok, hparams)
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
        memory.weights = list(weights)
        return model, Rollback(undo, on_items=keep_original_weight)

    return apply


def _record(request: EditRequest, hparams: Any) -> dict[str, Any]:
    """Return a request as EasyEdit takes it; a subject that comes twice is marked where it comes last."""
    prompt = request.prompt
    if hasattr(hparams, "fact_token") and request.subject and prompt.count(request.subject) > 1:
        from easyedit_lifelong.data.subjects import find_subject

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
