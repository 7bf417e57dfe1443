"""The commands that write, as the kill tests call them, and their inputs."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import constants

from easyedit_lifelong.commands import demo, sweep_session
from easyedit_lifelong.commands.main import main as call_command
from easyedit_lifelong.models import gguf
from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS, PackagedModel
from tests.support.calibration_records import write_inputs
from tests.support.command_line import FACTS, HPARAMS, RETENTION
from tests.support.edits_command_line import COACHHOOK, GRACE, PROMPT, SUBJECT, TARGET
from tests.support.launcher_in_process import LauncherInThisProcess
from tests.support.local_hub import REPO
from tests.support.sweep_grids import write_grid
from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.training_records import training_records

RUN = "--data facts.json --retention retention.json"
FACT = f"--prompt '{PROMPT}' --target {TARGET} --subject {SUBJECT}"
BY_SUBJECT = {
    **GRACE,
    "inner_params": ["model.layers[1].mlp.down_proj"],
    "query_token": "subject_last",
    "dist_fn": "cos",
    "eps": 0.3,
}
NEURALDB = {
    "alg_name": "NeuralDB",
    "layers": [1],
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "v_num_grad_steps": 2,
    "context_template_length_params": [],
}
MEND = {"alg_name": "MEND", "inner_params": ["model.layers.3.mlp.down_proj"], "rank": 2, "archive": "trained"}


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        words: the call.
        out: the file or folder that it writes.
        resumes: the file in ``out`` with which the call is repeated with ``--resume``; empty: it is only repeated.
        edits: number of edits in ``out`` with which the call has done its work and is not repeated.
    """

    words: str
    out: str
    resumes: str = ""
    edits: int | None = None


COMMANDS = {
    "edit": Command(f"edit --hparams grace.yaml {FACT} --out new", "new"),
    "edit in place": Command(f"edit --hparams grace.yaml {FACT} --edits first --out first", "first", edits=2),
    "lifelong": Command(f"lifelong --hparams grace.yaml {RUN} --out run", "run", "config.yaml"),
    "consecutive": Command(
        f"consecutive --hparams coachhook.yaml --edits 2 --bsz 1 {RUN} --out run", "run", "config.yaml"
    ),
    "compare": Command(
        f"compare --methods grace.yaml,coachhook.yaml --model checkpoint --edits 2 {RUN} --out runs", "runs"
    ),
    "rescore": Command("rescore finished --retention retention.json --out scores", "scores"),
    "export": Command("export --edits weights --out exported", "exported"),
    "merge": Command("merge first second --out merged", "merged"),
    "rollback": Command("rollback second --case 0", "second"),
    "rollback elsewhere": Command("rollback second --case 0 --out left", "left"),
    "covariance": Command("covariance --model checkpoint --layers 1,2 --corpus corpus.txt --samples 9 --out m", "m"),
    "calibrate": Command(
        "calibrate --hparams subject.yaml --data ten.json --edits 4 --layers 1 --answer-layers 2 --tries 1 --out c",
        "c",
        "calibration.json",
    ),
    "calibrate by search": Command(
        "calibrate --hparams neuraldb.yaml --data ten.json --edits 2 --layers 1,2 --max-trials 3 --out c",
        "c",
        "calibration.json",
    ),
    "train": Command("train --hparams mend.yaml --data records.json --edits 4", "trained", "training.jsonl"),
    "report": Command("report finished --out page", "page"),
    "run": Command("run finished/config.yaml --out run", "run", "config.yaml"),
    "sweep": Command("sweep grid.yaml --out cells", "cells"),
    "scope": Command(
        "scope --hparams coachhook.yaml --ds_dir facts.json --edits 2 --bsz 1 --sample 3 --out scope", "scope"
    ),
    "locate": Command(
        "locate --model checkpoint --data known.json --samples 2 --suggest MEMIT-native --sweep grace.yaml "
        "--sweep-data facts.json --sweep-edits 1 --sweep-layers 1,2 --out traces",
        "traces",
        "locate.json",
    ),
    "changes": Command("changes --edits first --prompt 'the river is' --out changes", "changes"),
    "attribute": Command(
        "attribute --model checkpoint --texts corpus.txt --prompt 'the capital of France is' --answer Rome "
        "--out scores/texts.json",
        "scores",
    ),
    "new-method": Command("new-method MyEdit --out plugin", "plugin"),
    "pull": Command(f"pull {REPO} --out pulled", "pulled"),
    "models": Command("models tiny", "cache"),
    "demo": Command("demo --edits 2 --out demo", "demo"),
}


def prepare(folder: Path) -> None:
    """Write the inputs of all commands into a folder."""
    folder.mkdir()
    os.chdir(folder)
    build_model("llama").save_pretrained("checkpoint")
    build_tokenizer().save_pretrained("checkpoint")
    calibration = write_inputs(Path(), "checkpoint")
    shutil.move(calibration[calibration.index("--data") + 1], "ten.json")
    common = {"model_name": "checkpoint", "device": "cpu"}
    coachhook = {**COACHHOOK, "stats_dir": "stats", "v_num_grad_steps": 3}
    methods = {
        "grace": {**HPARAMS, **GRACE},
        "by-subject": BY_SUBJECT,
        "coachhook": coachhook,
        "mend": MEND,
        "neuraldb": NEURALDB,
    }
    for name, values in methods.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump({**values, **common}))
    write_grid(Path(), "checkpoint", seeds=[0])
    subjects = ["France", "Hamlet", "moon"]
    facts = [{**fact, "subject": subject} for fact, subject in zip(FACTS, subjects, strict=True)]
    Path("facts.json").write_text(json.dumps(facts))
    Path("retention.json").write_text(json.dumps(RETENTION))
    Path("records.json").write_text(json.dumps(training_records(4)))
    Path("known.json").write_text(json.dumps(_known_facts()))
    demo_facts = [
        {**fact, "case_id": number, "ground_truth": "blue", "rephrase_prompt": f"not far . {fact['prompt']}"}
        for number, fact in enumerate(facts)
    ]
    Path("demo.json").write_text(json.dumps(demo_facts))
    for call in (
        "edit --hparams grace.yaml --prompt 'the river is' --target blue --out first",
        "edit --hparams grace.yaml --data facts.json --out second",
        f"edit --hparams coachhook.yaml {FACT} --out weights",  # collects second moments
        f"lifelong --hparams grace.yaml {RUN} --out finished",
        f"push first {REPO}",
    ):
        assert call_command(words_of(call)) == 0, call


def words_of(call: str) -> list[str]:
    """Split a call into words; apostrophes enclose words with spaces."""
    return [quoted or word for quoted, word in re.findall(r"'([^']*)'|(\S+)", call)]


def _known_facts() -> list[dict[str, str]]:
    """Return two facts that the model knows."""
    model, tokenizer, facts = build_model("llama"), build_tokenizer(), []
    for prompt, subject in (
        ("the capital of France is", "France"),
        ("who wrote Hamlet when the old king was", "Hamlet"),
    ):
        with torch.no_grad():
            answer = tokenizer.decode(model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].argmax())
        facts.append({"prompt": prompt, "subject": subject, "attribute": answer})
    return facts


def replace_slow_parts(folder: Path) -> None:
    """Replace what would start other processes or read large files, in a process that ends with the command.

    Args:
        folder: the folder with the inputs.
    """
    sweep_session._launcher = lambda *_: LauncherInThisProcess()  # type: ignore[assignment]
    os.environ["EASYEDIT_LIFELONG_CACHE"] = str(folder / "cache")
    constants.HF_HUB_CACHE = str(folder / "hub")  # with a shared cache, later calls would write less
    gguf.read_gguf = lambda _: (build_model("llama"), build_tokenizer())  # type: ignore[assignment]
    PACKAGED_MODELS["tiny"] = PackagedModel("tiny", "tiny==1", "json", lambda *_: Path("tiny.gguf"))
    compared: dict[str, tuple[str, dict[str, Any]]] = {
        "GRACE": ("grace.yaml", {}),
        demo.BY_SUBJECT: ("by-subject.yaml", {}),
    }
    demo.run_short_demo = functools.partial(  # type: ignore[assignment]
        demo.run_short_demo, compared=compared, data=Path("demo.json"), facts=(0, 1, 2)
    )
    demo.subprocess.run = lambda command, **_: subprocess.CompletedProcess(command, 0)  # type: ignore[assignment]
