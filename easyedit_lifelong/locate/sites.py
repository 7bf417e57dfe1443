"""The modules of a model at which states are recorded and replaced."""

from __future__ import annotations

from typing import Any

from torch import nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.locate.restorations import MODULES, Module
from easyedit_lifelong.models.anatomy import anatomy_of, attention_output_of, mlp_of
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.packing import mlps_of, token_wise_modules


class Sites:
    """The blocks of a model, and the modules in them whose outputs can be restored.

    Args:
        model: a causal language model.

    Attributes:
        blocks: the transformer blocks.

    Raises:
        ModelError: the model is no causal language model, or has no list of blocks.
    """

    def __init__(self, model: Any) -> None:
        if (kind := kind_of(model)) is not ModelKind.CAUSAL:
            raise ModelError(
                f"{model_label(model)}: is a {kind.value}. Only the states of causal language models can be traced."
            )
        anatomy = anatomy_of(model)
        if anatomy is None:
            raise ModelError(f"{model_label(model)}: has no list of transformer blocks, so it can't be traced")
        self._label = model_label(model)
        self.blocks: list[nn.Module] = list(anatomy.blocks)
        self._token_wise = token_wise_modules(self.blocks[-1])
        width = getattr(model.config, "hidden_size", None) or model.get_input_embeddings().weight.shape[1]
        self._modules = {
            "mlp": [_mlp_module(block) for block in self.blocks],
            "attention": [_attention_module(block, width) for block in self.blocks],
        }

    def modules(self, kind: Module) -> list[nn.Module]:
        """Return the modules of all blocks whose outputs are those of the MLP or of the attention.

        Raises:
            ModelError: a block has none.
        """
        found = [module for module in self._modules[kind] if module is not None]
        if len(found) < len(self.blocks):
            missing = self._modules[kind].index(None)
            others = ", ".join(name for name in ("state", *MODULES) if name != kind)
            raise ModelError(
                f"{self._label}: the {kind} of block {missing} isn't found, so its output can't be restored. Trace "
                f"other kinds ({others})."
            )
        return found

    def read_by_last_token(self) -> list[nn.Module]:
        """Return modules of the last block whose outputs are read at the last token only, and that can skip others."""
        last = [self._modules[kind][-1] for kind in MODULES]
        return [module for module in last if module is not None and module in self._token_wise]


def _mlp_module(block: nn.Module) -> nn.Module | None:
    """Return the MLP of a block, its output projection, or its mixture of experts; None if none is found."""
    mlp = mlp_of(block)
    if mlp is not None:
        # Some MLPs do more than the MLP: BLOOM's adds the residual. The output of the projection is that of the MLP.
        plain = [module for module in mlps_of(block) if block.get_submodule(mlp.output) in module.modules()]
        return plain[0] if plain else block.get_submodule(mlp.output)
    names = ("mlp", "moe", "feed_forward", "ffn")
    children = [child for name, child in block.named_children() if any(part in name.lower() for part in names)]
    with_weights = [child for child in children if any(p.dim() > 1 for p in child.parameters())]
    return with_weights[0] if len(with_weights) == 1 else None


def _attention_module(block: nn.Module, width: int) -> nn.Module | None:
    """Return the output projection of a block's attention; None if it isn't found."""
    path = attention_output_of(block, width)
    return None if path is None else block.get_submodule(path)
