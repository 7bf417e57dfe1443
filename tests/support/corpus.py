"""A text corpus for second moments."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.tiny_models import WORDS


def write_corpus(folder: Path) -> Path:
    """Write the text that second moments are taken of; return the folder."""
    draw = random.Random(0)
    text = "\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(40))
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    return folder
