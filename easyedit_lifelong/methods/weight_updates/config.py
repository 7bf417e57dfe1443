"""Base classes of the hyperparameters of methods that write updates into weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.models.modules import module_path


@dataclass(kw_only=True)
class WeightUpdateHyperParams(PluginHyperParams):
    """Base class of the hyperparameters of methods that write updates into weights.

    Attributes:
        eos: end targets with the tokenizer's end-of-text token, so that the model learns where its answer stops.
    """

    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ()
    """The names of the fields that all batches on a model must share."""

    eos: bool = False

    @property
    def writes_weights(self) -> bool:
        """Whether updates are added to the model's own weights."""
        return True

    @property
    def rewrite_modules(self) -> list[str]:
        """The paths of the edited projections, from the first layer to the last."""
        raise NotImplementedError


@dataclass(kw_only=True)
class BlockUpdateHyperParams(WeightUpdateHyperParams):
    """Base class of the hyperparameters of methods that edit the same projection in one or several blocks.

    Attributes:
        layers: numbers of the edited blocks, in ascending order.
        rewrite_module_tmp: path of an edited projection, with ``{}`` for the number of the block.
    """

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("rewrite_module_tmp",)
    """The names of the fields that are paths with ``{}`` for the number of a block."""

    layers: list[int]
    rewrite_module_tmp: str

    @property
    def edited_layers(self) -> list[int]:
        """The numbers of the edited blocks, in ascending order."""
        return self.layers

    @property
    def rewrite_modules(self) -> list[str]:
        """The paths of the edited projections, from the first layer to the last."""
        return [self.rewrite_module_tmp.format(layer) for layer in self.edited_layers]

    def check(self) -> list[str]:
        """Return a message for every problem of ``layers`` and of the paths."""
        # Another check reports values of the wrong type, so these checks skip them.
        problems = []
        layers = self.layers
        if is_list_of(layers, int) and (layers != sorted(set(layers)) or not layers or layers[0] < 0):
            problems.append(f"layers: {layers} must be block numbers in ascending order, without duplicates")
        values = {name: getattr(self, name) for name in self.PATH_FIELDS}
        return problems + [
            f"{name}: {value!r} must contain {{}} exactly once, for the number of the block"
            for name, value in values.items()
            if isinstance(value, str) and (value.count("{}") != 1 or value.count("{") + value.count("}") != 2)
        ]


@dataclass(kw_only=True)
class NamedProjectionsHyperParams(WeightUpdateHyperParams):
    """Base class of the hyperparameters of methods that edit any projections, which a list names.

    Attributes:
        inner_params: paths of the edited projections.
    """

    inner_params: list[str]

    @property
    def rewrite_modules(self) -> list[str]:
        """The paths of the edited projections."""
        return self.inner_params

    def check(self) -> list[str]:
        """Return a message for every problem of ``inner_params``."""
        names = self.inner_params
        if not is_list_of(names, str):
            return []  # another check reports it
        if not names:
            return ["inner_params: must name at least one projection"]
        paths = [module_path(name) for name in names]
        return [f"inner_params: {path!r} is there twice" for path in dict.fromkeys(paths) if paths.count(path) > 1]


def is_list_of(value: Any, kind: type) -> bool:
    """Return whether a value is a list whose items are all of one type."""
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
