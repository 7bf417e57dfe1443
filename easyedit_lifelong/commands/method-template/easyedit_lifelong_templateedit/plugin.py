"""What the plugin registers: the method Template-Edit with its ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong import EditMethod, ExplainedPass, hookimpl, separate_edit_ports

from .config import TemplateEditHyperParams
from .editor import TemplateEditEditor, apply_templateedit_to_model


@dataclass(frozen=True)
class ExplainedTokens:
    """The tokens of a prompt: the text of each, and the case whose edit acted there, or None."""

    tokens: list[tuple[str, int | str | None]]

    def lines(self) -> list[str]:
        """Return a heading, and a line for each token."""
        acted = ["" if case is None else f"  answered by case {case!r}" for _, case in self.tokens]
        return ["Template-Edit", *(f"  {text!r}{case}" for (text, _), case in zip(self.tokens, acted, strict=True))]


@contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[ExplainedTokens]]]:
    """Explain the forward pass that is made in this context."""
    editors = TemplateEditEditor.all_on(model)
    texts = list(enumerate(explained.texts, -len(explained.texts)))  # `applied` counts tokens from the end
    yield lambda: [ExplainedTokens([(text, editor.applied.get(n)) for n, text in texts]) for editor in editors]


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register the method."""
    register(
        EditMethod(
            "Template-Edit",
            TemplateEditHyperParams,
            apply_templateedit_to_model,
            batchable=True,
            explain=explain,
            counts=lambda model: {"n_edits": sum(len(editor.edits) for editor in TemplateEditEditor.all_on(model))},
            **separate_edit_ports(TemplateEditEditor),
        )
    )
