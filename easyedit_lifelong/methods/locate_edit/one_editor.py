"""One editor on a model: found there, put there, continued with the same settings, taken off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.templates import Templates
from easyedit_lifelong.methods.shared.apply import check_continues
from easyedit_lifelong.methods.shared.editors import editors_on, register_editor, unregister_editor
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.plugins import get_plugins

if TYPE_CHECKING:
    from typing_extensions import Self

_PLACE = ""
"""All edited layers have one editor."""


class OneEditor:
    """An editor of all edited layers of a model.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: the method's hyperparameters.

    Attributes:
        attached: whether the editor is still on its model.
    """

    hparams_class: ClassVar[type[LocateEditHyperParams]]

    def __init__(self, model: Any, tokenizer: Any, hparams: Any) -> None:
        self.model, self.tokenizer, self.hparams = model, tokenizer, hparams
        self._hparams_of_edits = hparams
        self._runner = Runner(model, tokenizer)
        self.attached = True

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """Return the editor that is on a model, if there is one."""
        return editors_on(model, cls.hparams_class.ALG_NAME).get(_PLACE)

    @classmethod
    def required(cls, model: Any) -> Self:
        """Return the editor of a model that carries edits of this method.

        Raises:
            EditError: it carries none.
        """
        editor = cls.of(model)
        if editor is None:
            raise EditError(f"the model carries no {cls.hparams_class.ALG_NAME} edits")
        return editor

    @classmethod
    def on(
        cls,
        model: Any,
        tokenizer: Any,
        hparams: Any,
        moments: Mapping[str, SecondMoment] | None = None,
        templates: Templates | None = None,
    ) -> Self:
        """Return the model's editor; if it has none, put one on it.

        Args:
            model: the model.
            tokenizer: its tokenizer.
            hparams: the method's hyperparameters.
            moments: E[kkᵀ] by path of the projection; by default those that the hyperparameters name.
            templates: context templates; by default the model generates them.

        Raises:
            ModelError: the model has no such layers.
            EditError: the model carries edits of this method with other settings, or another method's in the weights
                that this one changes.
        """
        editor = cls.of(model)
        if editor is None:
            editor = cls(model, tokenizer, hparams, moments, templates)  # type: ignore[call-arg]
            try:
                editor._check_only_writer()
            except EditError:
                editor._detach()
                raise
            register_editor(model, hparams.ALG_NAME, _PLACE, editor)
            return editor
        carried = f"the model carries {hparams.ALG_NAME} edits"
        check_continues(carried, editor.hparams, hparams, hparams.SAME_SETTINGS, "Roll them back first.")
        if tokenizer is not editor.tokenizer:  # loaded edits came without one
            editor.tokenizer, editor._runner = tokenizer, Runner(model, tokenizer)
        editor.hparams = hparams
        return editor

    @property
    def weight_paths(self) -> list[str]:
        """Paths of the projections whose weights the editor changes; none if its edits are beside the weights."""
        return []

    def _check_only_writer(self) -> None:
        """Check that no other method changes the same weights: rolling one back would lose the other's edits."""
        found = [one for method in get_plugins().methods for one in editors_on(self.model, method.name).values()]
        for other in (one for one in found if isinstance(one, OneEditor) and one is not self):
            if shared := next((path for path in self.weight_paths if path in other.weight_paths), None):
                name = other.hparams.ALG_NAME
                raise EditError(f"the weights of {shared} carry {name} edits already; roll those back first")

    def _detach(self) -> None:
        """Take the editor off its model."""
        self.attached = False
        unregister_editor(self.model, self.hparams.ALG_NAME, _PLACE)
