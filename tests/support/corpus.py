"""A text corpus for second moments."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.tiny_models import WORDS


def write_corpus(folder: Path, documents: int = 40, seed: int = 0) -> Path:
    """Write ``corpus.txt``, documents of 40 random words each; return the folder."""
    draw = random.Random(seed)
    text = "\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(documents))
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    return folder
