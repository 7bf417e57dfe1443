"""The one editor that a method which edits several layers has on a model: find it, make it, detach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.shared.apply import check_same_settings
from easyedit_lifelong.methods.shared.editors import editors_on, register_editor, unregister_editor
from easyedit_lifelong.methods.weight_updates.config import WeightUpdateHyperParams
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.plugins import get_plugins

if TYPE_CHECKING:
    from typing_extensions import Self

_PLACE = ""
"""The place of the editor in the register of editors, which has one editor for each method and place."""


class ModelEditor:
    """Base class of an editor that edits several layers of a model. A model has at most one for each method.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the hyperparameters of the method.

    Attributes:
        attached: whether the editor is still on its model.
    """

    hparams_class: ClassVar[type[WeightUpdateHyperParams]]

    def __init__(self, model: Any, tokenizer: Any, hparams: Any) -> None:
        self.model, self.tokenizer, self.hparams = model, tokenizer, hparams
        self._hparams_of_edits = hparams
        """The hyperparameters of the last edits. They are restored if further edits fail."""
        self._runner = self._make_runner(tokenizer)
        self.attached = True

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """Return the editor of this method that is on a model; None if there is none."""
        return editors_on(model, cls.hparams_class.ALG_NAME).get(_PLACE)

    @classmethod
    def require(cls, model: Any) -> Self:
        """Return the editor of this method that is on a model.

        Raises:
            EditError: the model has no edits of this method.
        """
        editor = cls.of(model)
        if editor is None:
            raise EditError(f"the model carries no {cls.hparams_class.ALG_NAME} edits")
        return editor

    @classmethod
    def on(cls, model: Any, tokenizer: Any, hparams: Any, *parts: Any, **named_parts: Any) -> Self:
        """Return the editor of this method that is on a model; make one if there is none.

        Args:
            model: the model.
            tokenizer: its tokenizer.
            hparams: the hyperparameters of the method.
            *parts: the further arguments of the class, which a new editor gets, such as second moments.
            **named_parts: the same, by name.

        Raises:
            ModelError: the model lacks a layer that the hyperparameters name.
            EditError: the model has edits of this method with other hyperparameters, or the weights to edit have
                edits of another method.
        """
        editor = cls.of(model)
        if editor is None:
            editor = cls(model, tokenizer, hparams, *parts, **named_parts)
            try:
                editor._check_only_writer()
            except EditError:
                editor._detach()
                raise
            register_editor(model, hparams.ALG_NAME, _PLACE, editor)
            return editor
        carried = f"the model carries {hparams.ALG_NAME} edits"
        check_same_settings(carried, editor.hparams, hparams, hparams.SAME_SETTINGS, "Roll them back first.")
        if tokenizer is not editor.tokenizer:  # edits can be loaded without a tokenizer
            editor.tokenizer, editor._runner = tokenizer, editor._make_runner(tokenizer)
        editor.hparams = hparams
        return editor

    @property
    def weight_paths(self) -> list[str]:
        """The paths of the projections whose weights the editor changes; empty if it keeps ΔW beside the weights."""
        return []

    def _check_only_writer(self) -> None:
        """Check that no other editor changes the same weights: to roll one back would remove the edits of the other.

        Raises:
            EditError: another editor does.
        """
        for method in get_plugins().methods.names():
            for other in editors_on(self.model, method).values():
                if other is self or not isinstance(other, ModelEditor):
                    continue
                for path in self.weight_paths:
                    if path in other.weight_paths:
                        name = other.hparams.ALG_NAME
                        raise EditError(f"the weights of {path} carry {name} edits already; roll those back first")

    def _make_runner(self, tokenizer: Any) -> Runner:
        """Return a runner of the model for the passes of this editor."""
        return Runner(self.model, tokenizer)

    def _detach(self) -> None:
        """Remove the editor from its model."""
        self.attached = False
        unregister_editor(self.model, self.hparams.ALG_NAME, _PLACE)
