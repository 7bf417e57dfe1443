"""Load every folder of edits in a process without EasyEdit: ``python -m tests.conformance.load_elsewhere FOLDER``.

``FOLDER/NAME`` holds edits of a tiny Llama. The script writes the logits with these edits to
``FOLDER/NAME.loaded.safetensors``, and the logits after their rollback to ``FOLDER/NAME.unloaded.safetensors``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file


def write_logits(model: Any, path: Path) -> None:
    """Write a model's logits for all prompts."""
    from tests.conformance.observe import PROMPTS, logits_of

    save_file(dict(zip(PROMPTS, logits_of(model), strict=True)), path)


def main(folder: Path) -> None:
    """Load and roll back each folder of edits, on one model."""
    from easyedit_lifelong import get_plugins, load_edits
    from tests.conformance.method_cases import example_plugin
    from tests.support.tiny_models import build_model

    get_plugins().add(example_plugin(), "biasedit")
    model = build_model("llama")
    for edits in sorted(path for path in folder.iterdir() if path.is_dir()):
        rollback = load_edits(model, edits)
        write_logits(model, edits.with_suffix(".loaded.safetensors"))
        rollback()
        write_logits(model, edits.with_suffix(".unloaded.safetensors"))


if __name__ == "__main__":
    sys.modules["easyeditor"] = None  # type: ignore[assignment]
    main(Path(sys.argv[1]))
