"""The training loop: what it writes, resuming, when it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from easyedit_lifelong import (
    DataError,
    EditError,
    EditMethod,
    HyperParameterError,
    MendHyperParams,
    ModelError,
    PluginHyperParams,
    RunError,
    TrainingSchedule,
    UltraEditHyperParams,
    apply_ultraedit_to_model,
    get_plugins,
    hookimpl,
    read_artefact,
    train_editor,
)
from easyedit_lifelong.methods.hypernetworks.training import HypernetworkTraining
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.runs import training
from easyedit_lifelong.runs.training_folder import TrainingFolder, TrainingProgress
from tests.support.tiny_models import build_model, build_tokenizer, state_of
from tests.support.training_records import training_records

PATHS = ["model.layers.3.mlp.up_proj", "model.layers.3.mlp.down_proj"]
RECORDS = training_records(12)


def hparams_for(**options: Any) -> MendHyperParams:
    settings = {"rank": 2, "lr": 1e-3, "edit_lr": 1e-3, "accumulate_bs": 2, "val_interval": 4, "log_interval": 4}
    return MendHyperParams(**{"model_name": "tiny", "inner_params": PATHS, **settings, **options})


def train(out: Path, edits: int | None = 12, records: Sequence[Any] = RECORDS, **options: Any) -> Any:
    named = {name: options.pop(name) for name in ("minutes", "resume", "report") if name in options}
    return train_editor(
        build_model("llama"), build_tokenizer(), records, hparams_for(**options), out, edits=edits, **named
    )


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    return read_artefact(out, "MEND", "archive").tensors


def curve_of(out: Path) -> list[dict[str, Any]]:
    """Return the lines of the training curve without times."""
    lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of twelve edits."""
    out = tmp_path_factory.mktemp("trained") / "mend"
    train(out)
    return out


# ------------------------------------------------------------------ what it writes


def test_the_folder_has_artefact_checkpoint_curve_and_log(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if not path.name.startswith(".")}
    tensors = {name for name in names if name.startswith("artefact-")}
    assert names - tensors == {"artefact.json", "checkpoint.safetensors", "training.jsonl", "training.log"}
    assert len(tensors) == 1
    description = json.loads((trained / "artefact.json").read_text())
    assert description["method"] == "MEND"
    assert description["model"]["fingerprint"] == model_fingerprint(build_model("llama"))
    assert description["data"] == {"records": 11, "held_out": 1}
    assert description["hparams"]["rank"] == 2
    curve = curve_of(trained)
    assert [(line["kind"], line["edits"]) for line in curve] == [
        (kind, edits) for edits in (4, 8, 12) for kind in ("training", "validation")
    ]
    validations = [line for line in curve if line["kind"] == "validation"]
    assert {"loss", "edit_loss", "locality_loss", "generality", "locality_agreement", "success"} <= set(validations[0])
    best = min(validations, key=lambda line: line["loss"])
    assert description["validation"]["edits"] == best["edits"]
    assert description["validation"]["loss"] == best["loss"]
    assert len((trained / "training.log").read_text().splitlines()) == len(curve)


def test_a_training_changes_nothing_in_the_model(tmp_path: Path) -> None:
    model = build_model("llama").train()
    before = state_of(model)
    train_editor(model, build_tokenizer(), RECORDS, hparams_for(), tmp_path, edits=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_artefact_is_that_of_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 1.0, float("nan"), 2.0])
    artefacts: list[dict[str, torch.Tensor]] = []

    def validate(training: HypernetworkTraining, batches: Any, choices: Any) -> Mapping[str, float]:
        artefacts.append(training.artefact())
        return {"loss": next(losses)}

    monkeypatch.setattr(HypernetworkTraining, "validate", validate)
    result = train(tmp_path, edits=16)
    assert (result.best_edits, result.best_loss) == (8, 1.0)
    written = tensors_of(tmp_path)
    assert all(torch.equal(value, written[name]) for name, value in artefacts[1].items())
    assert not all(torch.equal(value, written[name]) for name, value in artefacts[0].items())


# ------------------------------------------------------------------ resuming


class Interrupted(Exception):
    """Ends a training at a chosen step."""


@pytest.mark.parametrize("at", [2, 6, 10])
def test_a_resumed_training_ends_bitwise_as_an_uninterrupted_one(trained: Path, tmp_path: Path, at: int) -> None:
    def interrupt(edits: int, total: int | None, line: str | None) -> None:
        if edits == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path, report=interrupt)
    (tmp_path / "training.jsonl").open("a").write('{"edits": 99}\n')  # written after the checkpoint
    assert bool(load_file(tmp_path / "checkpoint.safetensors")) == (at >= 4)  # the first one has no tensors
    with pytest.raises(RunError, match=r"If it was cut short, --resume continues it\."):
        train(tmp_path)
    result = train(tmp_path, resume=True)
    assert result.edits == 12
    first, second = (load_file(folder / "checkpoint.safetensors") for folder in (trained, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, tensors_of(tmp_path)[name]) for name, value in tensors_of(trained).items())
    assert curve_of(tmp_path) == curve_of(trained)


def test_a_finished_training_can_be_continued_with_more_edits(trained: Path, tmp_path: Path) -> None:
    train(tmp_path, edits=4)
    result = train(tmp_path, edits=12, resume=True)
    assert result.edits == 12
    assert curve_of(tmp_path) == curve_of(trained)
    assert train(tmp_path, edits=12, resume=True).reason == "all training edits are done"
    assert curve_of(tmp_path) == curve_of(trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 2e-3}, r"lr was 0\.001, is 0\.002"),
        ({"records": RECORDS[:5]}, "requests_sha256 was .*the data or their format file changed"),
    ],
)
def test_other_settings_or_records_are_refused(trained: Path, options: dict[str, Any], message: str) -> None:
    before = curve_of(trained)
    with pytest.raises(RunError, match=message):
        train(trained, resume=True, **options)
    assert curve_of(trained) == before


def test_a_training_whose_checkpoint_was_deleted_is_not_started_again(tmp_path: Path) -> None:
    train(tmp_path, edits=4)
    before = tensors_of(tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no checkpoint\.safetensors, so this training can't be resumed"):
        train(tmp_path, resume=True)
    assert all(torch.equal(value, before[name]) for name, value in tensors_of(tmp_path).items())


def test_the_lines_that_a_checkpoint_counts_are_on_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    folder, progress = TrainingFolder(tmp_path, {}), TrainingProgress()
    folder.clear_curve()
    monkeypatch.setattr(os, "fsync", record)
    for progress.lines in (1, 2):
        folder.add_line({"kind": "training", "loss": 0.5})
        assert "training.jsonl" in flushed
        folder.save_checkpoint(progress, {})
        flushed.clear()
    assert folder.load_checkpoint()[0].lines == len((tmp_path / "training.jsonl").read_text().splitlines()) == 2


def test_a_curve_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").mkdir()
    with pytest.raises(RunError, match=r"training\.jsonl: can't be written: Is a directory"):
        TrainingFolder(tmp_path, {}).add_line({"loss": 0.5})


def test_a_damaged_curve_is_refused(tmp_path: Path) -> None:
    train(tmp_path, edits=4)
    (tmp_path / "training.jsonl").write_bytes(b"\xff\xfe\n\n")
    with pytest.raises(RunError, match=r"training\.jsonl: is damaged"):
        train(tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(tmp_path, edits=4)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="is damaged, or not a checkpoint"):
        train(tmp_path, resume=True)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_checkpoint_with_a_flipped_bit_is_refused(place: float, tmp_path: Path) -> None:
    train(tmp_path, edits=4)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(place * (len(content) - header))] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="is damaged, or not a checkpoint"):
        train(tmp_path, resume=True)


def test_a_checkpoint_without_a_digest_is_resumed(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    train(tmp_path / "parts", edits=4)
    path = tmp_path / "parts" / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["digest"]  # as earlier releases wrote it
    save_file(load_file(path), path, metadata)
    train(tmp_path / "parts", resume=True)
    whole, parts = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("name", ["training.jsonl", "training.log", "artefact.json", "checkpoint.safetensors"])
def test_a_file_that_cannot_be_written_is_an_error_of_the_folder(name: str, tmp_path: Path) -> None:
    def block(*_: object) -> None:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir(exist_ok=True)  # as on a full disk, writing it fails

    with pytest.raises(RunError, match=rf"{tmp_path}.*: .*can't be written: "):
        train(tmp_path, report=block)


def test_a_training_that_another_process_has_made_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_first(path: Path) -> object:
        monkeypatch.undo()
        train(path, edits=4)
        return training.lock_folder(path)

    monkeypatch.setattr(training, "lock_folder", train_first)
    with pytest.raises(RunError, match="holds another training"):
        train(tmp_path, edits=8)
    assert curve_of(tmp_path)[-1]["edits"] == 4


# ------------------------------------------------------------------ the port


@dataclass(kw_only=True)
class MeanHyperParams(PluginHyperParams):
    """Hyperparameters of a method that is trained to know the mean length of prompts."""

    ALG_NAME: ClassVar[str] = "MEAN"


class MeanTraining:
    """Learns the mean number of words of the prompts."""

    def __init__(self) -> None:
        self.total, self.count = torch.zeros(()), torch.zeros(())

    def encode(self, request: Any) -> int:
        return len(request.prompt.split())

    def train_step(self, batches: Sequence[Sequence[int]], choices: random.Random) -> dict[str, float]:
        self.total = self.total + sum(length for batch in batches for length in batch)
        self.count = self.count + sum(len(batch) for batch in batches)
        return {"loss": 0.0}

    def validate(self, batches: Sequence[Sequence[int]], choices: random.Random) -> dict[str, float]:
        return {"loss": abs(float(self.total / self.count) - batches[0][0])}

    def artefact(self) -> dict[str, torch.Tensor]:
        return {"mean": self.total / self.count}

    def state(self) -> dict[str, torch.Tensor]:
        return {"total": self.total, "count": self.count}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.total, self.count = tensors["total"], tensors["count"]


class MeanTrainer:
    """Trains the method through the port."""

    def schedule(self, hparams: MeanHyperParams) -> TrainingSchedule:
        return TrainingSchedule(6, 1, 1, 3, 3, 5, 100, hparams.seed)

    def start(self, model: Any, tokenizer: Any, hparams: MeanHyperParams) -> MeanTraining:
        return MeanTraining()


class MeanPlugin:
    """Registers the method."""

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        register(EditMethod("MEAN", MeanHyperParams, lambda model, *_, **__: (model, None), train=MeanTrainer()))


def test_a_plugins_method_is_trained_through_the_port(tmp_path: Path) -> None:
    get_plugins().add(MeanPlugin(), "mean")
    try:
        hparams = MeanHyperParams(model_name="tiny")
        result = train_editor(build_model("llama"), build_tokenizer(), RECORDS, hparams, tmp_path)
    finally:
        get_plugins().remove("mean")
    assert (result.edits, result.best_loss) == (6, 0.0)
    artefact = read_artefact(tmp_path, "MEAN", "archive")
    assert artefact.tensors["mean"] == 3
    assert artefact.hparams["alg_name"] == "MEAN"


# ------------------------------------------------------------------ the end, and the order of records


def test_a_training_ends_after_the_given_minutes(tmp_path: Path) -> None:
    result = train(tmp_path, edits=None, max_iters=None, minutes=1e-6)
    assert (result.edits, result.reason) == (2, "1e-06 minutes are over")
    assert tensors_of(tmp_path)


def test_a_training_ends_when_no_validation_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(HypernetworkTraining, "validate", lambda *_: {"loss": next(losses)})
    result = train(tmp_path, edits=100, early_stop_patience=8)
    assert (result.edits, result.best_edits) == (12, 4)
    assert "no validation was better during 8 training edits" in result.reason


def test_every_epoch_trains_on_every_record_once_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def step(training: HypernetworkTraining, batches: Sequence[Sequence[Any]], choices: random.Random) -> Any:
        seen.extend(record.edit for batch in batches for record in batch)
        return {"loss": choices.random()}

    monkeypatch.setattr(HypernetworkTraining, "train_step", step)
    monkeypatch.setattr(HypernetworkTraining, "validate", lambda *_: {"loss": 1.0})
    monkeypatch.setattr(HypernetworkTraining, "state", lambda _: {"nothing": torch.zeros(1)})
    train(tmp_path, edits=11, batch_size=2, accumulate_bs=1)
    first, second = seen[:11], seen[11:]
    assert len(set(first)) == 11
    assert set(first) == set(second)
    assert first != second


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        (RECORDS[:1], DataError, "at least two records; there are 1"),
        ([RECORDS[0], {"case_id": "x", "prompt": "king", "target_new": "sea"}], DataError, "case x.*locality_prompt"),
        ([RECORDS[0], {**RECORDS[1], "locality_prompt": "king " * 70}], DataError, "locality_prompt.*context is 64"),
        ([RECORDS[0], {**RECORDS[1], "rephrase_prompt": "king " * 70}], DataError, "the model's context is 64"),
    ],
)
def test_unusable_records_are_refused_before_anything_is_written(
    tmp_path: Path, records: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(tmp_path / "out", records=records)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_training_is_not_overwritten(trained: Path) -> None:
    with pytest.raises(RunError, match="holds another training"):
        train(trained)


def test_a_method_that_is_not_trained_is_refused(tmp_path: Path) -> None:
    hparams = UltraEditHyperParams(model_name="tiny", inner_params=PATHS)
    with pytest.raises(HyperParameterError, match="UltraEdit is not trained"):
        train_editor(build_model("llama"), build_tokenizer(), RECORDS, hparams, tmp_path)


def test_a_model_with_edits_is_refused(tmp_path: Path) -> None:
    hparams = UltraEditHyperParams(model_name="tiny", inner_params=PATHS)
    model, _ = apply_ultraedit_to_model(build_model("llama"), build_tokenizer(), RECORDS[:1], hparams)
    with pytest.raises(ModelError, match="the model carries edits"):
        train_editor(model, build_tokenizer(), RECORDS, hparams_for(), tmp_path)


def test_a_training_without_a_finite_validation_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HypernetworkTraining, "validate", lambda *_: {"loss": float("nan")})
    with pytest.raises(EditError, match="no validation had a finite loss, so no artefact was written"):
        train(tmp_path, edits=4)
    assert not (tmp_path / "artefact.json").exists()


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, edits=4)
    checkpoint = (tmp_path / "checkpoint.safetensors").read_bytes()
    model = build_model("llama")
    with torch.no_grad():
        model.get_submodule(PATHS[1]).weight[0, 0] = float("nan")
    with pytest.raises(EditError, match="the loss became nan before the edit"):
        train_editor(model, build_tokenizer(), RECORDS, hparams_for(), tmp_path / "other", edits=4)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == checkpoint
