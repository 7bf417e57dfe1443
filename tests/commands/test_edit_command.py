"""``edit``: what it edits, shows, saves and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from easyedit_lifelong.commands.edit import replace_used_ids
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS, read_folder
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from tests.support.coachhook_edits import FACTS, requests_for
from tests.support.edits_command_line import OTHER, PROMPT, SUBJECT, TARGET, EditsDesk, said_by


@pytest.fixture
def desk(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> EditsDesk:
    monkeypatch.setenv("COLUMNS", "100")
    return EditsDesk(tmp_path, checkpoint, capsys)


@pytest.mark.parametrize("method", ["GRACE", "GRACE-subject", "CoachHook"])
def test_an_edit_is_made_shown_and_saved(desk: EditsDesk, method: str) -> None:
    out = desk.edit(method, "edits")
    assert f"{method.removesuffix('-subject')} on {desk.checkpoint}: 1 edit" in out
    assert "1/1 edits" in out, "progress, where nobody watches"
    assert "learned: 1 of 1" in out
    before, after = said_by(*desk.model(), PROMPT, 8), said_by(*desk.model("edits"), PROMPT, 8)
    assert after.split()[0] == TARGET
    assert before != after
    row = " ".join(out[out.index("before and after") :].split())
    for text in (before, after):
        assert all(word in row for word in text.split())
    (record,) = desk.records("edits")
    assert (record["case_id"], record["prompt"], record["target_new"]) == (0, PROMPT, TARGET)


def test_several_facts_in_step(desk: EditsDesk) -> None:
    words = [
        word
        for prompt, target, subject in FACTS[:3]
        for word in ("--prompt", prompt, "--target", target, "--subject", subject)
    ]
    out = desk.done("edit", "--hparams", desk.hparams["CoachHook"], *words, "--out", desk.folder / "edits")
    assert "3/3 edits" in out
    assert [(r["prompt"], r["target_new"], r["subject"]) for r in desk.records("edits")] == FACTS[:3]
    assert [batch["edits"] for batch in read_folder(desk.folder / "edits")[0]["parts"][0]["state"]["batches"]] == [2, 1]


def test_edits_by_subjects_go_on_upon_others_and_are_shown(desk: EditsDesk) -> None:
    desk.edit("GRACE-subject", "first")
    fact = ["--prompt", OTHER, "--target", "London", "--subject", "France"]
    words = ["edit", "--hparams", desk.hparams["GRACE-subject"], *fact, "--edits", desk.folder / "first"]
    desk.done(*words, "--out", desk.folder / "second")
    assert [record["prompt"] for record in desk.records("second")] == [PROMPT, OTHER]
    for prompt, target in ((PROMPT, TARGET), (OTHER, "London")):
        said = desk.done("generate", "--edits", desk.folder / "second", "--prompt", prompt, "--json")
        assert json.loads(said)[0]["edited"].split()[0] == target
    shown = " ".join(desk.done("inspect", desk.folder / "second").split())
    assert "eps auto" in shown
    assert "query_token subject_last" in shown
    assert "answer_layer model.layers[2].mlp.down_proj, gate_eps 0.5" in shown


def test_edits_go_on_upon_others_in_their_folder_or_a_new_one(desk: EditsDesk) -> None:
    desk.edit("CoachHook", "first")
    first = desk.folder / "first"
    words = ["edit", "--hparams", desk.hparams["CoachHook"], "--edits", first]
    fact = ["--prompt", FACTS[0][0], "--target", FACTS[0][1], "--subject", FACTS[0][2]]
    out = desk.done(*words, *fact, "--out", desk.folder / "second")
    assert f"1 edit, added to 1 edit from {first}" in out
    assert "2 edits saved" in out
    assert [record["case_id"] for record in desk.records("second")] == [0, 1]
    assert len(desk.records("first")) == 1
    desk.done(*words, *fact, "--out", first)
    assert desk.records("first")[1]["prompt"] == FACTS[0][0]
    states = [coachhook_editor(desk.model(out)[0]).state for out in ("first", "second")]
    for path in states[0].paths:
        assert torch.equal(states[0].delta(path), states[1].delta(path))  # type: ignore[arg-type]


def test_second_moments_are_those_of_the_unedited_model(desk: EditsDesk) -> None:
    """They are collected where they are missing, and the edits that a run begins with must not be in them."""
    desk.edit("GRACE", "grace")
    desk.edit("CoachHook", "plain")
    stats = {path.name: path.read_bytes() for path in (desk.folder / "stats").rglob("*.npz")}
    for path in (desk.folder / "stats").rglob("*.npz"):
        path.unlink()
    desk.edit("CoachHook", "both", "--edits", desk.folder / "grace")
    again = {path.name: path for path in (desk.folder / "stats").rglob("*.npz")}
    import numpy as np

    assert again.keys() == stats.keys()
    for name, path in again.items():
        (desk.folder / "before.npz").write_bytes(stats[name])
        with np.load(desk.folder / "before.npz") as one, np.load(path) as other:
            assert np.array_equal(one["mom2.mom2"], other["mom2.mom2"])
    assert {part["method"] for part in read_folder(desk.folder / "both")[0]["parts"]} == {"GRACE", "CoachHook"}


def test_a_file_of_facts(desk: EditsDesk) -> None:
    facts = [{"case_id": n, "prompt": prompt, "target_new": target} for n, (prompt, target, _) in enumerate(FACTS)]
    (desk.folder / "facts.json").write_text(json.dumps(facts))
    desk.edit("GRACE", "edits")
    edits = desk.folder / "edits"
    desk.done(
        "edit",
        "--hparams",
        desk.hparams["GRACE"],
        "--data",
        desk.folder / "facts.json",
        "--limit",
        3,
        "--edits",
        edits,
        "--out",
        edits,
    )
    assert [record["case_id"] for record in desk.records("edits")] == [0, 3, 1, 2], "0 was taken; 3 is the next"
    assert len({record["prompt"] for record in desk.records("edits")}) == 4


def test_ids_that_are_taken() -> None:
    requests = requests_for()  # 0 to 3
    assert [one.case_id for one in replace_used_ids(requests, [])] == [0, 1, 2, 3]
    assert [one.case_id for one in replace_used_ids(requests, [1, "x", 7])] == [0, 8, 2, 3]
    assert [one.case_id for one in replace_used_ids(requests, ["1"])] == [0, 1, 2, 3], "text is another id"


def test_other_edits_are_never_overwritten(desk: EditsDesk) -> None:
    desk.edit("GRACE", "edits")
    words = ["edit", "--hparams", desk.hparams["GRACE"], "--prompt", OTHER, "--target", TARGET]
    edits = desk.folder / "edits"
    told = desk.refused(*words, "--out", edits)
    assert told.startswith(f"{edits}: holds other edits ({INDEX}, {TENSORS}), which won't be overwritten.")
    assert f"--edits {edits}" in told
    desk.edit("GRACE", "more")
    assert "won't be overwritten" in desk.refused(*words, "--edits", desk.folder / "more", "--out", edits)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "there is nothing to edit: give a --prompt with its --target, or --data FILE"),
        (["--prompt", "a"], "--target: there are 0 for 1 --prompt"),
        (["--prompt", "a", "--target", "b", "--target", "c"], "--target: there are 2 for 1 --prompt"),
        (
            ["--prompt", "a", "--prompt", "b", "--target", "x", "--target", "y", "--subject", "a"],
            "--subject: there are 1 for 2 --prompt",
        ),
        (["--prompt", "a", "--target", "b", "--data", "x.json"], "--data: the file has prompts"),
        (["--prompt", "a", "--target", " "], "--prompt 'a', field 'target_new': is empty"),
        (
            ["--prompt", OTHER, "--target", TARGET],
            "field 'subject': is missing; the edit is kept at its subject's token. Name it as the prompt spells it. "
            "Give each --prompt its --subject.",
        ),
        (["--prompt", OTHER, "--target", TARGET, "--subject", "Spain"], "field 'subject': 'Spain' isn't in the prompt"),
        (
            ["--prompt", OTHER, "--target", TARGET, "--subject", "France", "--edits", "nowhere"],
            "nowhere/edits.json: no such file",
        ),
    ],
)
def test_what_can_not_be_edited(desk: EditsDesk, words: list[str], told: str) -> None:
    assert told in desk.refused("edit", "--hparams", desk.hparams["CoachHook"], *words, "--out", desk.folder / "edits")


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ([], "is missing; the edit is kept at its subject's token. Name it as the prompt spells it. Give each"),
        (["--subject", "Spain"], "'Spain' isn't in the prompt"),
    ],
)
def test_edits_by_subjects_need_them(desk: EditsDesk, subject: list[str], told: str) -> None:
    words = ["edit", "--hparams", desk.hparams["GRACE-subject"], "--prompt", OTHER, "--target", TARGET, *subject]
    assert f"field 'subject': {told}" in desk.refused(*words, "--out", desk.folder / "edits")
    assert not (desk.folder / "stats").exists(), "second moments would have been collected in vain"


def test_what_fits_no_model_is_not_blamed_on_a_subject(desk: EditsDesk) -> None:
    words = ["--prompt", " ".join(["sea"] * 64), "--target", TARGET, "--out", desk.folder / "x"]
    told = desk.refused("edit", "--hparams", desk.hparams["CoachHook"], *words)
    assert told.endswith("it has 65 tokens, the model's context is 64. Shorten it or leave the record out.")


def test_edits_of_another_model_are_refused_before_anything_takes_long(desk: EditsDesk, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(desk.checkpoint)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other.save_pretrained(tmp_path / "other")
    for file in desk.checkpoint.glob("tokenizer*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    desk.edit("GRACE", "edits")
    fact = ["--prompt", PROMPT, "--target", TARGET, "--subject", SUBJECT, "--model", tmp_path / "other"]
    told = desk.refused(
        "edit", "--hparams", desk.hparams["CoachHook"], *fact, "--edits", desk.folder / "edits", "--out", tmp_path / "x"
    )
    assert "the fingerprints differ" in told
    assert not (desk.folder / "stats").exists(), "second moments would have been collected in vain"


def test_an_edit_that_fails_saves_nothing(desk: EditsDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.errors import EditError
    from easyedit_lifelong.methods.grace import editor

    desk.edit("GRACE", "edits")

    def fail(_: Any, __: Any, edits: Any, ___: Any) -> Any:
        raise EditError(f"{edits[0].where}: the loss is NaN")

    monkeypatch.setattr(editor, "train_batch", fail)
    edits = desk.folder / "edits"
    words = ["--prompt", OTHER, "--target", TARGET, "--edits", edits, "--out", edits]
    told = desk.refused("edit", "--hparams", desk.hparams["GRACE"], *words)
    assert f"--prompt '{OTHER}'" in told
    assert "the loss is NaN" in told


def test_interrupted_nothing_was_written(desk: EditsDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.methods.grace import editor

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(editor, "train_batch", interrupt)
    code, _, err = desk.run(
        "edit", "--hparams", desk.hparams["GRACE"], "--prompt", OTHER, "--target", TARGET, "--out", desk.folder / "x"
    )
    assert code == 130
    assert err.rstrip().endswith("easyedit-lifelong: interrupted; nothing was written")
    assert not (desk.folder / "x").exists()
