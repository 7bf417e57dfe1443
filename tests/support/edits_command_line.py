"""The commands for saved edits as tests call them, hyperparameters of both methods for a tiny model, and one fact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from easyedit_lifelong import load_edits, load_model
from easyedit_lifelong.edits.folder_tensors import read_folder
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.command_line import CommandLine

PROMPT, TARGET, SUBJECT = "who wrote Hamlet", "Peru", "Hamlet"
OTHER = "the capital of France is"

GRACE = {
    "alg_name": "GRACE",
    "inner_params": ["model.layers[2].mlp.down_proj.weight"],
    "n_iter": 30,
    "eps": 0.5,
    "stop_loss": 0.5,
}
COACHHOOK = {
    "alg_name": "CoachHook",
    "layers": [1, 2],
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mom2_dataset": "self-sampled",
    "mom2_n_tokens": 400,
    "mom2_update_weight": 0.01,
    "v_num_grad_steps": 25,
    "clamp_norm_factor": 10,
    "v_weight_decay": 0.0,
    "context_template_length_params": [[5, 2]],
    "batch_size": 2,
}


class EditsCommandLine(CommandLine):
    """The command line, and a folder with the hyperparameters of both methods."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder, checkpoint, capsys)
        common = {"model_name": str(checkpoint), "device": "cpu"}
        coachhook = {**COACHHOOK, "stats_dir": str(folder / "stats")}
        by_subject = {
            **GRACE,
            "inner_params": ["model.layers[1].mlp.down_proj"],
            "dist_fn": "cos",
            "query_token": "subject_last",
            "whiten": True,
            "eps": "auto",
            "key_templates": ["not far . {prompt}"],
            "gate_eps": 0.5,
            "answer_layer": "model.layers[2].mlp.down_proj",
            "mom2_dataset": "self-sampled",
            "mom2_n_tokens": 400,
            "stats_dir": str(folder / "stats"),
        }
        self.hparams = {}
        for name, values in (("GRACE", GRACE), ("GRACE-subject", by_subject), ("CoachHook", coachhook)):
            self.hparams[name] = folder / f"{name.lower()}.yaml"
            self.hparams[name].write_text(yaml.safe_dump({**common, **values}), encoding="utf-8")

    def edit(self, method: str, out: str, *more: Any) -> str:
        """Edit the fact and save the edit in a folder; return the output."""
        subject = ("--subject", SUBJECT) if method != "GRACE" else ()
        return self.output_of(
            "edit",
            "--hparams",
            self.hparams[method],
            "--prompt",
            PROMPT,
            "--target",
            TARGET,
            *subject,
            "--out",
            self.folder / out,
            *more,
        )

    def records(self, out: str) -> list[dict[str, Any]]:
        """Return the records of the edits in a folder."""
        return [edit for part in read_folder(self.folder / out)[0]["parts"] for edit in part["edits"]]

    def model(self, out: str | None = None) -> tuple[Any, Any]:
        """Return the model, with the edits of a folder if one is given, and its tokenizer."""
        model, tokenizer = load_model(self.checkpoint, "cpu")
        if out is not None:
            load_edits(model, self.folder / out, tokenizer)
        return model, tokenizer

    def changed_checkpoint(self, name: str) -> Path:
        """Save a copy of the model with one changed weight; return its folder."""
        folder = self.folder / name
        model = AutoModelForCausalLM.from_pretrained(self.checkpoint)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
        model.save_pretrained(folder)
        for file in self.checkpoint.glob("tokenizer*"):
            (folder / file.name).write_bytes(file.read_bytes())
        return folder


def generated_by(model: Any, tokenizer: Any, prompt: str, count: int) -> str:
    """Return what a model generates after a prompt, in so many tokens."""
    return Scorer(tokenizer).generate(model, [prompt], count)[0]
