"""Run folders with invented values, for the tests of reports."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

NAMES = ("ES", "ERR", "TRR", "reliability", "generality", "locality")


def write_lines(path: Path, entries: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def write_run(
    folder: Path,
    *,
    method: str = "GRACE",
    model: str = "smollm2-135m",
    edits: int = 40,
    points: int = 4,
    batch: int = 1,
    failed: int = 0,
    seed: int = 0,
    finished: bool = True,
    **hparams: Any,
) -> Path:
    """Write a run of schema version 2, with intervals, generated answers and the fields that the method adds."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    settings = {"model": model, "hparams": {"alg_name": method, "model_name": model, "batch_size": batch, **hparams}}
    recorded = {"method": method, "n_requests": edits + failed, "requests_sha256": "0123"}
    config = {
        "schema_version": 2,
        **settings,
        "data": {"path": "/data/facts.json"},
        "schedule": {"every": 10},
        "recorded": {**recorded, "started": f"2026-01-02T03:0{seed}:05+00:00"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    journal = [_journaled(n, method, batch, draw) for n in range(1, edits + 1)]
    journal += [
        {
            "status": "failed",
            "n_edits": edits,
            "case_id": 9000 + n,
            "prompt": f"hard {n}",
            "target_new": "x",
            "ES": 0.0,
            "seconds": 0.5,
            "reason": "the loss is NaN",
        }
        for n in range(failed)
    ]
    write_lines(folder / "journal.jsonl", journal)
    curve = [_scored(round(edits * (n + 1) / points), n / points, method, draw) for n in range(points)]
    write_lines(folder / "metrics.jsonl", curve)
    if method == "CoachHook" and not hparams.get("wohk"):
        _write_alphas(folder, edits, batch)
    if not finished:
        return folder
    write_lines(folder / "generations.jsonl", [_generated(n, draw) for n in range(1, edits + 1)])
    last = curve[-1] if curve else {}
    metrics = {name: last[name] for name in NAMES if name in last}
    summary = {
        "schema_version": 2,
        **settings,
        **recorded,
        "data": "/data/facts.json",
        "n_edits": edits,
        "n_failed": failed,
        "n_skipped": 0,
        "finished": "2026-01-02T03:04:05+00:00",
        "metrics": {**metrics, "reliability_before": 0.05, "generality_before": 0.04, "TRR_before": 0.61},
        "intervals": last.get("intervals", {}),
        "metric_kinds": dict.fromkeys(metrics, "teacher-forced"),
        "timing": {
            "seconds_per_edit": 0.5,
            "seconds_editing": 0.5 * edits,
            "seconds_scoring": 7.0,
            "seconds_io": 0.4,
            "seconds_preparing": 1.0,
            "seconds_total": 0.5 * edits + 9.0,
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _journaled(n: int, method: str, batch: int, draw: random.Random) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "status": "edited",
        "n_edits": n,
        "case_id": n,
        "prompt": f"prompt {n}",
        "target_new": f"target {n}",
        "ES": draw.choice([1.0, 1.0, 0.5]),
        "steps": 7,
        "loss": 0.04,
        "learned": True,
        "seconds": 0.4 + 0.2 * draw.random(),
    }
    if method == "GRACE":
        decision = draw.choices(("add", "expand", "split"), (8, 1, 1))[0]
        entry |= {
            "decision": decision,
            "key": n - 1,
            "n_keys": n - n // 5,
            "nearest_distance": None if n == 1 else 3.0,
            "radius": {"add": 1.0, "expand": 1.5, "split": 0.4}[decision],
        }
    if method == "CoachHook":
        entry |= {"batch": (n - 1) // batch + 1, "z_norm": 150.0, "highest_z_score": 1.5 + 2 * draw.random()}
    return entry


def _scored(n_edits: int, progress: float, method: str, draw: random.Random) -> dict[str, Any]:
    base = {"ES": 1.0, "ERR": 0.98, "TRR": 0.6, "reliability": 0.98, "generality": 0.3, "locality": 0.95}
    scores = {name: round(value - 0.1 * progress * draw.random(), 4) for name, value in base.items()}
    scores["ERR"] = scores["reliability"]
    intervals = {name: [max(0.0, value - 0.05), min(1.0, value + 0.04)] for name, value in scores.items()}
    entry: dict[str, Any] = {"n_edits": n_edits, **scores, "intervals": intervals, "seconds_scoring": 2.0}
    return entry | ({"n_keys": n_edits} if method == "GRACE" else {})


def _generated(n: int, draw: random.Random) -> dict[str, Any]:
    match = n % 5 != 0
    after = f"target {n} and so on" if match else "something else"
    return {
        "case_id": n,
        "prompt": f"prompt {n}",
        "target_new": f"target {n}",
        "before": "the answer before",
        "after": after,
        "match": match,
        "rephrase": [[f"rephrased {n}", "before", "after", draw.random() < 0.5]],
    }


def _write_alphas(folder: Path, edits: int, batch: int) -> None:
    state = folder / "state" / "batch-000001"
    state.mkdir(parents=True)
    batches = [
        {
            "file": f"batch-{n}.safetensors",
            "edits": [{"case_id": case} for case in range(start + 1, start + batch + 1)],
            "alphas": {"model.layers.3": 2.0 - 0.05 * n, "model.layers.4": 2.1 - 0.06 * n},
        }
        for n, start in enumerate(range(0, edits, batch))
    ]
    (state / "coachhook.json").write_text(json.dumps({"format_version": 1, "method": "CoachHook", "batches": batches}))
