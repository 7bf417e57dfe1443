"""What layers return in a forward pass, for comparisons with what an explanation says about them."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.tiny_models import build_tokenizer


def outputs_of(model: Any, path: str, prompt: str) -> torch.Tensor:
    """Return a layer's output at each token of a prompt. Shape: (tokens, width)."""
    outputs: list[torch.Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda _module, _args, output: outputs.append(output[0]))
    with torch.no_grad():
        model(**build_tokenizer()(prompt, return_tensors="pt"))
    handle.remove()
    return outputs[0]
