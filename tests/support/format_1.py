"""A model whose weights depend on no library's random numbers, and the script that wrote the fixture of format 1.

``python -m tests.support.format_1`` wrote the fixture once. It must not be written again: users have such folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import FAMILIES

FOLDER = Path(__file__).parents[1] / "fixtures" / "format_1"
TOKENS = torch.arange(4, 24).reshape(4, 5)


def formula_model() -> Any:
    """Return a tiny Llama whose weights are fractions of whole numbers, the same on every machine."""
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"][0]).eval()
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            integers = torch.arange(parameter.numel(), dtype=torch.int64) * 7919 + 104_729 * number
            if parameter.dim() > 1:
                parameter.copy_(((integers % 2001 - 1000).double() / 4096).float().reshape(parameter.shape))
    return model


def main() -> None:
    """Write the fixture."""
    from easyedit_lifelong import save_edits
    from tests.support.saved_edits import METHODS

    for name in ("GRACE", "CoachHook-weighed"):
        model = formula_model()
        METHODS[name](model, "llama")
        save_edits(model, FOLDER / name)
        with torch.no_grad():
            torch_logits = model(TOKENS).logits
        (FOLDER / name / "logits.txt").write_text("\n".join(f"{x:.6g}" for x in torch_logits.flatten().tolist()) + "\n")


if __name__ == "__main__":
    main()
