"""Records on which methods are trained for a tiny model."""

from __future__ import annotations

import random
from typing import Any

from tests.support.tiny_models import WORDS


def training_records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return records of random words, each with a paraphrase and a locality prompt."""
    draw = random.Random(seed)
    words = sorted(set(WORDS))
    records = []
    for number in range(count):
        prompt = " ".join(draw.sample(words, 3))
        records.append(
            {
                "case_id": f"record {seed}-{number}",
                "prompt": prompt,
                "target_new": draw.choice(words),
                "rephrase_prompt": f"and {prompt}",
                "locality_prompt": " ".join(draw.sample(words, 4)),
                "locality_ground_truth": draw.choice(words),
            }
        )
    return records
