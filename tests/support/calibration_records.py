"""Facts in the tiny models' words, hyperparameters, and the inputs of ``calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.data.request import EditRequest
from tests.support.corpus import write_corpus

SUBJECTS = ["France", "Peru", "London", "Hamlet", "moon", "king", "piano", "river", "sea", "Berlin"]
_RELATIONS = [
    ("the capital of {} is", "Rome", "Paris", "city of {} but not"),
    ("{} made from green", "cheese", "snow", "old {} made"),
]
_LOCALITY = ["old bird song", "winter and summer mountain", "language spoken in", "who wrote violin", "blue far away"]


def facts() -> list[dict[str, Any]]:
    """Return ten facts of two relations, whose answers all differ between the relations."""
    found = []
    for number, subject in enumerate(SUBJECTS):
        prompt, target, truth, rephrase = _RELATIONS[number % 2]
        found.append(
            {
                "case_id": number,
                "prompt": prompt.format(subject),
                "target_new": target,
                "subject": subject,
                "ground_truth": truth,
                "rephrase_prompt": rephrase.format(subject),
                "locality_prompt": _LOCALITY[number % len(_LOCALITY)],
                "locality_ground_truth": "born",
            }
        )
    return found


def records() -> list[EditRequest]:
    return [EditRequest.from_dict(fact, f"record {number}") for number, fact in enumerate(facts())]


def values(tmp_path: Path, model: str, **more: Any) -> dict[str, Any]:
    """Return hyperparameters of GRACE by subject, and write the text whose second moments whiten the keys."""
    corpus = tmp_path / "corpus.txt"
    if not corpus.exists():
        write_corpus(tmp_path, documents=50)
    return {
        "alg_name": "GRACE",
        "model_name": model,
        "device": "cpu",
        "query_token": "subject_last",
        "inner_params": ["model.layers[9].mlp.gate_proj.weight"],  # no such layer here: the calibration replaces it
        "key_templates": ["the old song . {prompt}"],
        "context_templates": ["{subject} is"],
        "val_init": "warm",
        "n_iter": 8,
        "stop_loss": 0.5,
        "mom2_dataset": str(corpus),
        "mom2_n_tokens": 400,
        "stats_dir": str(tmp_path / "stats"),
        **more,
    }


def write_inputs(tmp_path: Path, model: str, records: Any = None, **more: Any) -> list[str]:
    """Write the inputs of ``calibrate``; return the words of the command."""
    (tmp_path / "subject.yaml").write_text(yaml.safe_dump(values(tmp_path, model, **more)))
    (tmp_path / "facts.json").write_text(json.dumps(facts() if records is None else records))
    return [
        "calibrate",
        "--hparams",
        str(tmp_path / "subject.yaml"),
        "--data",
        str(tmp_path / "facts.json"),
        "--out",
        str(tmp_path / "out"),
        "--edits",
        "4",
    ]
