"""The hyperparameters of CoachHook: those of MEMIT, and those of hook layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from easyedit_lifelong.methods.locate_edit.null_space_config import NullSpaceHyperParams


@dataclass(kw_only=True)
class CoachHookHyperParams(NullSpaceHyperParams):
    """Hyperparameters of CoachHook (arXiv 2403.05330): those of :class:`LocateEditHyperParams`, and these.

    Those of :class:`NullSpaceHyperParams` are used with ``update: alphaedit``.

    Attributes:
        update: the equation that gives the updates: ``memit``, that of the paper (equation 4), which preserves the keys
            of ordinary text and of earlier batches, or ``alphaedit``, which confines updates to the null space of the
            keys of ordinary text.
        alpha_z: α before the first batch: a hook layer acts on tokens whose score is at least α. α only falls
            (section 3.2).
        alpha_model: after a batch, α is lowered according to the scores of its prompts. This is the model that computes
            these scores: ``unedited``, as in the authors' code, or ``edited``, which will also score later prompts.
        alpha_prompts: the prompts for which α is lowered: those of the last ``batch`` (section 3.2), or those of
            ``all`` edits so far, because their scores fall as edits accumulate. ``all`` needs ``alpha_model: edited``.
        alpha_checked: for ``alpha_prompts: all``: how many earlier prompts to check after a batch, round-robin; None:
            all of them.
        alpha_floor: for ``alpha_prompts: all``: a prompt that needs an α below this is dropped. α does not fall for it
            in any layer.
        z_tokens: the z-score of a token compares it with the mean and the standard deviation over these tokens:
            ``all`` tokens of its prompt (equation 6), or only the ``others``. With ``others``, a token of a short
            prompt can score as high as one of a long prompt.
        scope_score: the score that is compared with α: ``z``, the z-score of ‖O - P‖ (equation 6), or ``weighed``, the
            geometric mean of two factors: that z-score, and ‖O - P‖ divided by its root mean square over ordinary text.
        wohk: without hooks: add the updates to the weights.
    """

    ALG_NAME: ClassVar[str] = "CoachHook"
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NullSpaceHyperParams.CHOICES,
        "update": ("memit", "alphaedit"),
        "alpha_model": ("unedited", "edited"),
        "alpha_prompts": ("batch", "all"),
        "z_tokens": ("all", "others"),
        "scope_score": ("z", "weighed"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **NullSpaceHyperParams.AT_LEAST,
        "alpha_checked": 0,
        "alpha_floor": 0,
        "alpha_z": 0,
    }
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *NullSpaceHyperParams.SAME_SETTINGS,
        "update",
        "alpha_z",
        "alpha_model",
        "alpha_prompts",
        "alpha_floor",
        "scope_score",
        "z_tokens",
        "wohk",
    )

    update: str = "memit"
    alpha_z: float = 2.2
    alpha_model: str = "unedited"
    alpha_prompts: str = "batch"
    alpha_checked: int | None = None
    alpha_floor: float = 0.0
    z_tokens: str = "all"
    scope_score: str = "z"
    wohk: bool = False

    @property
    def writes_weights(self) -> bool:
        """Whether updates are added to the model's own weights, rather than kept in hook layers."""
        return self.wohk

    @property
    def weighs_scores(self) -> bool:
        """Whether hook layers weigh z-scores by the size of the change, ‖O - P‖."""
        return self.scope_score == "weighed" and not self.wohk

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        if self.alpha_prompts == "all" and self.alpha_model != "edited":
            problems.append("alpha_prompts: 'all' needs alpha_model: edited, in which all prompts are scored")
        if self.alpha_checked is not None and self.alpha_prompts != "all":
            problems.append("alpha_checked: needs alpha_prompts: all")
        if self.alpha_floor and self.alpha_prompts != "all":
            problems.append("alpha_floor: needs alpha_prompts: all")
        if self.update != "alphaedit":
            defaults = {field.name: field.default for field in fields(self)}
            given = [name for name in self.NULL_SPACE_SETTINGS if getattr(self, name) != defaults[name]]
            problems += [f"{name}: needs update: alphaedit" for name in given]
        return problems
