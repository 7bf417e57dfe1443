"""Run the CoachHook authors' own code from a checkout that the caller provides.

Their script needs a CUDA device, EasyEdit's 2023 release as ``EasyEdit.easyeditor``, and a transformers release whose
blocks return tuples. This module replaces all three: it reads their file, rewrites it in memory and executes it. It
stores no copy of their code.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from easyedit_lifelong.bridge import base_editor
from easyedit_lifelong.bridge.rewrite import RUNTIME, rewrite
from easyedit_lifelong.bridge.runtime import Runtime

FILE = "CoachHooK_main.py"
HOOK = "validated_hook"
FUNCTIONS = ("apply_CoachHooK_to_model", "execute_CoachHooK", "apply_CoachHooK_wohk_to_model", HOOK)


class UpstreamError(Exception):
    """The authors' code can't be run; the message says why, and what to do."""


def load_upstream(checkout: str | Path, replacements: Mapping[str, str] | None = None) -> ModuleType:
    """Return the authors' file as a module, executed.

    Args:
        checkout: folder with a checkout of the authors' repository (github.com/Syon-Li/CoachHook).
        replacements: texts to replace in their source before it is executed.

    Raises:
        UpstreamError: the folder isn't such a checkout.
        EasyEditMissingError: EasyEdit isn't installed.
    """
    path = Path(checkout).expanduser() / FILE
    if not path.is_file():
        raise UpstreamError(
            f"{checkout}: not a checkout of CoachHook: it has no file {FILE}. "
            "Get one with: git clone https://github.com/Syon-Li/CoachHook"
        )
    base_editor()  # imports EasyEdit through our bridge, without which it can't be imported
    source = path.read_text(encoding="utf-8").replace("EasyEdit.easyeditor", "easyeditor")
    for old, new in (replacements or {}).items():
        if old not in source:
            raise UpstreamError(f"{path}: doesn't contain {old!r}; this script is for another version of the file.")
        source = source.replace(old, new)
    module = ModuleType("coachhook_upstream")
    module.__dict__[RUNTIME] = Runtime(module.__dict__)
    tree = rewrite(source, str(path))
    # The function that makes validated hooks is local to another one; a copy at the top level can be called.
    tree.body += [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == HOOK][:1]
    try:
        exec(compile(tree, str(path), "exec", dont_inherit=True), module.__dict__)
    except (ImportError, SyntaxError) as error:
        raise UpstreamError(f"{path}: can't be executed: {error}. It needs EasyEdit's 2023 release.") from error
    missing = [name for name in FUNCTIONS if not callable(module.__dict__.get(name))]
    if missing:
        raise UpstreamError(
            f"{path}: doesn't define {', '.join(missing)}; this script is for another version of the file."
        )
    return module


def hyperparameters(ours: Any, model: Any) -> Any:
    """Return EasyEdit's ``MEMITHyperParams``, which the authors' code expects, with our values.

    Args:
        ours: a ``CoachHookHyperParams``.
        model: the model; if its output head is tied to the embeddings, their hyperparameters must name the embeddings.
    """
    from easyeditor.models.memit.memit_hparams import MEMITHyperParams

    values = {field.name: getattr(ours, field.name) for field in dataclasses.fields(MEMITHyperParams)}
    values |= {"layers": ours.edited_layers, "alg_name": "MEMIT", "device": model.device.index or 0, "stats_dir": ""}
    if ours.v_loss_layer is None:
        values["v_loss_layer"] = model.config.num_hidden_layers - 1
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight is embeddings.weight:
        values["lm_head_module"] = next(name for name, module in model.named_modules() if module is embeddings)
    return MEMITHyperParams(**values)


@dataclass(frozen=True)
class UpstreamRun:
    """The result of an edit with the authors' code.

    Attributes:
        state: by edited module, its hook's weights and α.
        steps: optimisation steps of all target vectors.
    """

    state: dict[str, Any]
    steps: int

    @contextlib.contextmanager
    def in_place(self, upstream: ModuleType, model: Any) -> Iterator[None]:
        """Attach the edits to a model while the context lasts."""
        handles = [
            model.get_submodule(name).register_forward_hook(
                getattr(upstream, HOOK)(parameters["new_weight"], parameters["alpha"])
            )
            for name, parameters in self.state.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def edit(
    upstream: ModuleType,
    model: Any,
    tokenizer: Any,
    requests: Sequence[dict[str, Any]],
    hparams: Any,
    alpha: float,
    templates: list[list[str]],
    second_moment: Callable[[str], Any],
) -> UpstreamRun:
    """Edit requests in consecutive batches with the authors' code, without changing the model.

    Args:
        upstream: what :func:`load_upstream` returned.
        model: the model.
        tokenizer: its tokenizer.
        requests: ``case_id``, ``prompt``, ``subject`` and ``target_new`` of each.
        hparams: what :func:`hyperparameters` returned.
        alpha: the initial α.
        templates: groups of texts with a ``{}``.
        second_moment: returns E[kkᵀ] of a module's inputs, by the module's name.
    """
    with provided_inputs(upstream, templates, second_moment, tokenizer) as printed:
        sets = upstream.apply_CoachHooK_to_model(model, tokenizer, list(requests), hparams, alpha)
    # Their code prints one line for each loss; after the last loss of a request there is no step.
    return UpstreamRun(sets[-1], printed.getvalue().count("avg prob of [") - len(requests))


def commit(checkout: str | Path) -> str | None:
    """Return the commit of a checkout, or None if git can't read it."""
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@contextlib.contextmanager
def blocks_as_tuples() -> Iterator[None]:
    """Pass a block's output to EasyEdit's tracing as ``(hidden states,)``, as transformers returned it until version 4.

    Otherwise its ``output[0]`` is the first row of the batch, and its optimisation silently adds the trained vector to
    the wrong activations.
    """
    from easyeditor.util import nethook

    original = nethook.Trace

    class TupleTrace(original):  # type: ignore[misc, valid-type]
        def __init__(
            self, module: Any, layer: str | None = None, *args: Any, edit_output: Any = None, **kwargs: Any
        ) -> None:
            self._is_block = layer is not None and layer.rpartition(".")[2].isdigit()
            edit = edit_output
            if edit is not None and self._is_block:

                def edit(output: Any, layer: Any) -> Any:
                    return output if isinstance(output, tuple) else edit_output((output,), layer)[0]

            super().__init__(module, layer, *args, edit_output=edit, **kwargs)

        @property
        def output(self) -> Any:
            return self._output

        @output.setter
        def output(self, value: Any) -> None:
            self._output = (value,) if self._is_block and not isinstance(value, tuple) else value

    nethook.Trace = TupleTrace
    try:
        yield
    finally:
        nethook.Trace = original


@contextlib.contextmanager
def provided_inputs(
    upstream: ModuleType, templates: list[list[str]], second_moment: Callable[[str], Any], tokenizer: Any
) -> Iterator[io.StringIO]:
    """Give the authors' code context templates and second moments, and capture its standard output.

    Args:
        upstream: what :func:`load_upstream` returned.
        templates: groups of texts with a ``{}``.
        second_moment: returns E[kkᵀ] of a module's inputs, by the module's name.
        tokenizer: pads on the right in this context, as their index arithmetic expects.

    Yields:
        The captured output.
    """
    from easyeditor.models.memit import memit_main

    before = upstream.get_cov, memit_main.CONTEXT_TEMPLATES_CACHE, tokenizer.padding_side
    upstream.get_cov = lambda model, tok, layer_name, *rest, **options: second_moment(layer_name)  # type: ignore[attr-defined]
    memit_main.CONTEXT_TEMPLATES_CACHE = templates
    tokenizer.padding_side = "right"
    try:
        with blocks_as_tuples(), contextlib.redirect_stdout(io.StringIO()) as printed:
            yield printed
    finally:
        upstream.get_cov, memit_main.CONTEXT_TEMPLATES_CACHE, tokenizer.padding_side = before  # type: ignore[attr-defined]
