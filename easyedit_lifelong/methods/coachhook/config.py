"""CoachHook's hyperparameters: MEMIT's, and those of its hook layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams


@dataclass(kw_only=True)
class CoachHookHyperParams(LocateEditHyperParams):
    """Hyperparameters of CoachHook (arXiv 2403.05330): those of :class:`LocateEditHyperParams`, and these.

    Attributes:
        alpha_z: score α from which on a validated hook acts at first; it only falls (section 3.2).
        alpha_model: the model in which a batch's z-scores are computed when α falls: ``unedited``, as in the
            authors' code, or ``edited``, as later prompts are decided on.
        alpha_prompts: the prompts that α falls for: those of the ``batch`` just edited (section 3.2), or of ``all``
            edits so far, whose z-scores fall as edits accumulate; needs ``alpha_model: edited``.
        alpha_checked: how many earlier prompts are checked after a batch, round-robin, for ``alpha_prompts: all``;
            None for all of them, every time.
        alpha_floor: a prompt that needs an α below this is dropped, and no layer's α falls for it; for
            ``alpha_prompts: all``.
        z_tokens: the tokens whose mean and standard deviation standardise a token's score: ``all`` of its
            prompt (equation 6), or all the ``others``, so that a short prompt can reach as high a score as a long one.
        scope_score: what is compared with α: ``z``, the z-score of ‖O - P‖ (equation 6), or ``weighed``, its
            geometric mean with ‖O - P‖ in units of its root mean square over the text of the second moments.
        wohk: write into the weights, without hook layers.
    """

    ALG_NAME: ClassVar[str] = "CoachHook"
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **LocateEditHyperParams.CHOICES,
        "alpha_model": ("unedited", "edited"),
        "alpha_prompts": ("batch", "all"),
        "z_tokens": ("all", "others"),
        "scope_score": ("z", "weighed"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {**LocateEditHyperParams.AT_LEAST, "alpha_checked": 0, "alpha_floor": 0}
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *LocateEditHyperParams.SAME_SETTINGS,
        *("alpha_z", "alpha_model", "alpha_prompts", "alpha_floor", "scope_score", "z_tokens", "wohk"),
    )

    alpha_z: float = 2.2
    alpha_model: str = "unedited"
    alpha_prompts: str = "batch"
    alpha_checked: int | None = None
    alpha_floor: float = 0.0
    z_tokens: str = "all"
    scope_score: str = "z"
    wohk: bool = False

    @property
    def weighed(self) -> bool:
        """Whether hook layers weigh z-scores with how large a change is."""
        return self.scope_score == "weighed" and not self.wohk

    def check(self) -> list[str]:
        """Return what is wrong with these values together."""
        problems = super().check()
        if self.alpha_prompts == "all" and self.alpha_model != "edited":
            problems.append("alpha_prompts: all needs alpha_model: edited, the model in which all prompts are scored")
        if self.alpha_checked is not None and self.alpha_prompts != "all":
            problems.append("alpha_checked: needs alpha_prompts: all")
        if self.alpha_floor and self.alpha_prompts != "all":
            problems.append("alpha_floor: needs alpha_prompts: all")
        return problems
