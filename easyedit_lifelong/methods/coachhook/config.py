"""The hyperparameters of CoachHook: those of MEMIT, and those of hook layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from easyedit_lifelong.methods.locate_edit.null_space_config import NullSpaceHyperParams
from easyedit_lifelong.methods.shared.subject_keys.key_texts import template_problems
from easyedit_lifelong.models.modules import module_path

CODEBOOK = "codebook"
"""The value of ``scope_score`` that finds edits by the keys of their subjects."""

_CODEBOOK_SETTINGS = ("scope_layer", "key_templates", "false_fire_rate")
_ALPHA_SETTINGS = ("alpha_z", "alpha_model", "alpha_prompts", "alpha_checked", "alpha_floor", "z_tokens")


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
            With ``codebook``, there is no α: a token is in scope of the edits whose subjects' keys it is near, and the
            updates of these edits alone act at it.
        scope_layer: with ``codebook``, the path of the linear projection whose inputs are compared with the keys. No
            edited projection may come before it. None: the first edited projection.
        key_templates: with ``codebook``, texts with ``{subject}`` or ``{prompt}``. A subject has one key vector for its
            prompt and one for each of them.
        false_fire_rate: with ``codebook``, the share of sentences about other subjects in which a token may be near
            some key of a codebook of about a hundred. The radii of keys depend on it.
        wohk: without hooks: add the updates to the weights.
    """

    ALG_NAME: ClassVar[str] = "CoachHook"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (*NullSpaceHyperParams.ABOVE_ZERO, "false_fire_rate")
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **NullSpaceHyperParams.CHOICES,
        "update": ("memit", "alphaedit"),
        "alpha_model": ("unedited", "edited"),
        "alpha_prompts": ("batch", "all"),
        "z_tokens": ("all", "others"),
        "scope_score": ("z", "weighed", CODEBOOK),
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
        "scope_layer",
        "key_templates",
        "false_fire_rate",
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
    scope_layer: str | None = None
    key_templates: list[str] = field(default_factory=list)
    false_fire_rate: float = 0.003
    wohk: bool = False

    @property
    def writes_weights(self) -> bool:
        """Whether updates are added to the model's own weights, rather than kept in hook layers."""
        return self.wohk

    @property
    def weighs_scores(self) -> bool:
        """Whether hook layers weigh z-scores by the size of the change, ‖O - P‖."""
        return self.scope_score == "weighed" and not self.wohk

    @property
    def scope_path(self) -> str:
        """The path of the layer at which subjects are found, with ``scope_score: codebook``."""
        return module_path(self.scope_layer or self.rewrite_modules[0])

    @property
    def moment_paths(self) -> list[str]:
        """The layers whose second moments the method needs: the edited projections and the scope layer."""
        edited = super().moment_paths
        in_edited = self.scope_path in map(module_path, edited)
        return edited if in_edited or not self.has_codebook else [*edited, self.scope_path]

    @property
    def has_codebook(self) -> bool:
        """Whether hook layers act near the keys of edited subjects, rather than where a score is at least α."""
        return self.scope_score == CODEBOOK and not self.wohk

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
            problems += [f"{name}: needs update: alphaedit" for name in self._changed(self.NULL_SPACE_SETTINGS)]
        if self.scope_score == CODEBOOK:
            problems += self._codebook_problems()
        else:
            problems += [f"{name}: needs scope_score: codebook" for name in self._changed(_CODEBOOK_SETTINGS)]
        return problems

    def _codebook_problems(self) -> list[str]:
        """Return the problems of settings that ``scope_score: codebook`` does not combine with."""
        problems = [f"{name}: has no effect with scope_score: codebook" for name in self._changed(_ALPHA_SETTINGS)]
        if self.wohk:
            problems.append("scope_score: codebook needs hook layers (wohk: false)")
        if self.fact_token != "subject_last":
            problems.append(
                "scope_score: codebook finds subjects at their last tokens, so it needs fact_token: subject_last"
            )
        problems += template_problems("key_templates", self.key_templates)
        if isinstance(self.false_fire_rate, float) and self.false_fire_rate >= 1:
            problems.append(f"false_fire_rate: {self.false_fire_rate} must be less than 1")
        return problems

    def _changed(self, names: Sequence[str]) -> list[str]:
        """Return those of some settings that do not have their default values."""
        defaults = {
            field.name: field.default if field.default_factory is MISSING else field.default_factory()
            for field in fields(self)
        }
        return [name for name in names if getattr(self, name) != defaults[name]]
