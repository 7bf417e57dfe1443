"""GRACE's edits by subject on the tiny models, in each of the modes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from tests.support.coachhook_edits import FACTS
from tests.support.corpus import write_corpus
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

_FINDS = {"gpt2": "transformer.h[1].mlp.c_proj", "gptj": "transformer.h[1].mlp.fc_out"}

REQUESTS = [
    {"case_id": f"c{n}", "prompt": prompt, "target_new": target, "subject": subject}
    for n, (prompt, target, subject) in enumerate(
        [
            *FACTS,
            ("the capital of France is", "London", "France"),
            ("Hamlet wrote old song", "blue sea", "Hamlet"),
            ("language spoken in France", "Spanish", "France"),
            ("bird song from Peru", "winter", "Peru"),
            ("river city moon and sea", "cheese", "moon"),
        ]
    )
]
"""Their decisions include supersede and covered; some are further facts about the same subject."""

PROMPTS = [
    *(str(request["prompt"]) for request in REQUESTS),
    "where was France when snow",
    "not Hamlet but the king",
    "the moon",
    "Peru",
    "old mountain and blue sea",
    "king of the capital of France is not",
]

MODES: dict[str, dict[str, Any]] = {
    "subject": {},
    "subject-plain": {"whiten": False, "eps": 0.5, "key_templates": []},
    "late": {"gate_eps": 0.5},
    "late-relations": {"gate_eps": 0.5, "gate_metric": "relations"},
    "late-ungated": {"whiten": False, "eps": 0.5},
}
"""Values act at the subject's token, or later ("late"); with whitening, two keys for each edit and automatic radii,
or without."""


def hparams(mode: str, family: str = "llama", folder: Path = Path("unused"), **options: Any) -> GraceHyperParams:
    """Return a mode's hyperparameters.

    Args:
        mode: one of :data:`MODES`.
        family: the family of the model.
        folder: holds the corpus; second moments are stored there.
        **options: other hyperparameters.
    """
    values: dict[str, Any] = {
        "inner_params": [_FINDS.get(family, "model.layers[1].mlp.down_proj")],
        "dist_fn": "cos",
        "whiten": True,
        "query_token": "subject_last",
        "eps": "auto",
        "key_templates": ["not far . {prompt}"],
        "n_iter": 8,
        "context_templates": ["but {subject} is"],
        "mom2_dataset": str(folder / "corpus.txt"),
        "mom2_n_samples": 30,
        "stats_dir": str(folder / "stats"),
    }
    if mode.startswith("late"):
        values["answer_layer"] = FAMILIES[family][1]
    return GraceHyperParams(model_name="tiny", **values | MODES[mode] | options)


def edit(model: Any, family: str, mode: str, requests: Any = None, seed: int = 0, **options: Any) -> Any:
    """Make edits on a model: :data:`REQUESTS`, if none are given."""
    with tempfile.TemporaryDirectory() as name:
        chosen = hparams(mode, family, write_corpus(Path(name), documents=30, seed=seed), **options)
        return apply_grace_to_model(model, build_tokenizer(), requests or REQUESTS, chosen)


def edited(mode: str, requests: Any = None, family: str = "llama", **options: Any) -> Any:
    """Return a tiny model with edits."""
    model = build_model(family)
    edit(model, family, mode, requests, **options)
    return model
