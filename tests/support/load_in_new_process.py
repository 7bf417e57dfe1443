"""Load saved edits in another process, without EasyEdit: ``python -m tests.support.load_in_new_process FOLDER``.

The folder holds ``MODEL/base`` (a checkpoint), ``MODEL/METHOD`` (edits) and ``expected.pt``. The process writes
``found.json`` to it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    logging,
)

TOKENS = torch.arange(4, 24).reshape(4, 5)
_CLASSES = {
    "ForCausalLM": AutoModelForCausalLM,
    "LMHeadModel": AutoModelForCausalLM,
    "ForConditionalGeneration": AutoModelForSeq2SeqLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
}


def unedited_model(folder: Path, name: str) -> Any:
    """Load an unedited model."""
    (architecture,) = AutoConfig.from_pretrained(folder / name / "base").architectures
    auto = next(auto for ending, auto in _CLASSES.items() if architecture.endswith(ending))
    return auto.from_pretrained(folder / name / "base").eval()


def answers_of_model(model: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Return a model's logits for tokens and, if it can generate, its greedy answers."""
    mask = (tokens != 0).long()
    inputs = {"input_ids": tokens, "attention_mask": mask}
    more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        outputs = [model(**inputs, **more).logits]
        if hasattr(model, "generate"):
            outputs.append(model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0))
    return outputs


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Return whether all tensors are bitwise equal."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def main(folder: Path) -> None:
    """Load each method's edits on each model and roll them back; report whether the model was as expected."""
    from easyedit_lifelong import load_edits

    expected, found = torch.load(folder / "expected.pt"), {}
    for family, (tokens, methods) in expected.items():
        model = unedited_model(folder, family)
        unedited, state = (
            answers_of_model(model, tokens),
            {name: value.clone() for name, value in model.state_dict().items()},
        )
        for method, edited in methods.items():
            rollback = load_edits(model, folder / family / method)
            loaded = equal(answers_of_model(model, tokens), edited) and not equal(edited, unedited)
            rollback()
            after = model.state_dict()
            restored = after.keys() == state.keys() and all(torch.equal(after[name], state[name]) for name in state)
            found[f"{family}/{method}"] = {
                "edits": [edit["prompt"] for edit in rollback.results],
                "loaded": loaded,
                "rolled back": restored and equal(answers_of_model(model, tokens), unedited),
                "nothing left": not vars(model).keys() & {"forward", "generate", "save_edits"},
            }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.modules["easyeditor"] = None  # type: ignore[assignment]
    logging.set_verbosity_error()
    main(Path(sys.argv[1]))
