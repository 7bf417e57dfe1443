"""``edit``: what it edits, prints, saves and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.commands.edit import replace_used_ids
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS
from easyedit_lifelong.edits.folder_tensors import read_folder
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from tests.support.coachhook_edits import FACTS, requests_for
from tests.support.edits_command_line import OTHER, PROMPT, SUBJECT, TARGET, EditsCommandLine, generated_by


@pytest.mark.parametrize("method", ["GRACE", "GRACE-subject", "CoachHook"])
def test_an_edit_is_made_shown_and_saved(edits_cli: EditsCommandLine, method: str) -> None:
    out = edits_cli.edit(method, "edits")
    assert f"{method.removesuffix('-subject')} on {edits_cli.checkpoint}: 1 edit" in out
    assert "1/1 edits" in out, "progress isn't printed where the output is no terminal"
    assert "learned: 1 of 1" in out
    before, after = generated_by(*edits_cli.model(), PROMPT, 8), generated_by(*edits_cli.model("edits"), PROMPT, 8)
    assert after.split()[0] == TARGET
    assert before != after
    title, row = (part.split() for part in out[out.index("before and after") :].split("target:"))
    assert " ".join(title).endswith("; … means that the model writes more after the")
    assert all(word in row for word in before.split())
    assert row[row.index("…") - 1] == TARGET, "the text after the target isn't left out"
    (record,) = edits_cli.records("edits")
    assert (record["case_id"], record["prompt"], record["target_new"]) == (0, PROMPT, TARGET)


def test_eos_ends_the_answer_whatever_the_file_says(edits_cli: EditsCommandLine) -> None:
    out = edits_cli.edit("GRACE", "edits", "--eos")
    table = out[out.index("before and after") :]
    assert TARGET in table and "…" not in table
    assert generated_by(*edits_cli.model("edits"), PROMPT, 8).split() == [TARGET]


def test_the_printed_command_can_be_pasted(edits_cli: EditsCommandLine) -> None:
    out = edits_cli.edit("GRACE", "my edits")
    assert f"generate --edits '{edits_cli.folder / 'my edits'}' --prompt ... --compare\n" in out


def test_a_wrong_answer_is_shown_to_its_targets_end(edits_cli: EditsCommandLine) -> None:
    target = "Rome Peru king cheese moon sea blue river snow mountain France"
    words = ("--prompt", PROMPT, "--target", target)
    out = edits_cli.output_of(
        "edit", "--hparams", edits_cli.hparams["GRACE"], *words, "--out", edits_cli.folder / "edits"
    )
    after = generated_by(*edits_cli.model("edits"), PROMPT, 12)
    table = out[out.index("before and after") :].split()
    assert len(after.split()) == 12 and target not in after
    assert all(table.count(word) >= after.split().count(word) for word in after.split()), "a wrong answer is cut"


def test_repeated_options_edit_several_facts_in_batches(edits_cli: EditsCommandLine) -> None:
    words = [
        word
        for prompt, target, subject in FACTS[:3]
        for word in ("--prompt", prompt, "--target", target, "--subject", subject)
    ]
    out = edits_cli.output_of(
        "edit", "--hparams", edits_cli.hparams["CoachHook"], *words, "--out", edits_cli.folder / "edits"
    )
    assert "3/3 edits" in out
    assert [(r["prompt"], r["target_new"], r["subject"]) for r in edits_cli.records("edits")] == FACTS[:3]
    assert [batch["edits"] for batch in read_folder(edits_cli.folder / "edits")[0]["parts"][0]["state"]["batches"]] == [
        2,
        1,
    ]


def test_edits_by_subject_are_added_to_saved_ones_and_inspected(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("GRACE-subject", "first")
    fact = ["--prompt", OTHER, "--target", "London", "--subject", "France"]
    words = ["edit", "--hparams", edits_cli.hparams["GRACE-subject"], *fact, "--edits", edits_cli.folder / "first"]
    edits_cli.output_of(*words, "--out", edits_cli.folder / "second")
    assert [record["prompt"] for record in edits_cli.records("second")] == [PROMPT, OTHER]
    for prompt, target in ((PROMPT, TARGET), (OTHER, "London")):
        output = edits_cli.output_of("generate", "--edits", edits_cli.folder / "second", "--prompt", prompt, "--json")
        assert json.loads(output)[0]["edited"].split()[0] == target
    output = " ".join(edits_cli.output_of("inspect", edits_cli.folder / "second").split())
    assert "eps auto" in output
    assert "query_token subject_last" in output
    assert "answer_layer model.layers[2].mlp.down_proj, gate_eps 0.5" in output


def test_edits_are_added_to_saved_ones_in_the_same_folder_or_a_new_one(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("CoachHook", "first")
    first = edits_cli.folder / "first"
    words = ["edit", "--hparams", edits_cli.hparams["CoachHook"], "--edits", first]
    fact = ["--prompt", FACTS[0][0], "--target", FACTS[0][1], "--subject", FACTS[0][2]]
    out = edits_cli.output_of(*words, *fact, "--out", edits_cli.folder / "second")
    assert f"1 edit, added to 1 edit from {first}" in out
    assert "2 edits saved" in out
    assert [record["case_id"] for record in edits_cli.records("second")] == [0, 1]
    assert len(edits_cli.records("first")) == 1
    edits_cli.output_of(*words, *fact, "--out", first)
    assert edits_cli.records("first")[1]["prompt"] == FACTS[0][0]
    states = [coachhook_editor(edits_cli.model(out)[0]).state for out in ("first", "second")]
    for path in states[0].paths:
        assert torch.equal(states[0].delta(path), states[1].delta(path))  # type: ignore[arg-type]


def test_second_moments_are_those_of_the_unedited_model(edits_cli: EditsCommandLine) -> None:
    """Missing second moments are collected before the saved edits are put on the model."""
    edits_cli.edit("GRACE", "grace")
    edits_cli.edit("CoachHook", "plain")
    stats = {path.name: path.read_bytes() for path in (edits_cli.folder / "stats").rglob("*.npz")}
    for path in (edits_cli.folder / "stats").rglob("*.npz"):
        path.unlink()
    edits_cli.edit("CoachHook", "both", "--edits", edits_cli.folder / "grace")
    collected = {path.name: path for path in (edits_cli.folder / "stats").rglob("*.npz")}
    import numpy as np

    assert collected.keys() == stats.keys()
    for name, path in collected.items():
        (edits_cli.folder / "before.npz").write_bytes(stats[name])
        with np.load(edits_cli.folder / "before.npz") as expected, np.load(path) as found:
            assert np.array_equal(expected["mom2.mom2"], found["mom2.mom2"])
    assert {part["method"] for part in read_folder(edits_cli.folder / "both")[0]["parts"]} == {"GRACE", "CoachHook"}


def test_facts_of_a_data_file_get_free_case_ids(edits_cli: EditsCommandLine) -> None:
    facts = [{"case_id": n, "prompt": prompt, "target_new": target} for n, (prompt, target, _) in enumerate(FACTS)]
    (edits_cli.folder / "facts.json").write_text(json.dumps(facts))
    edits_cli.edit("GRACE", "edits")
    edits = edits_cli.folder / "edits"
    edits_cli.output_of(
        "edit",
        "--hparams",
        edits_cli.hparams["GRACE"],
        "--data",
        edits_cli.folder / "facts.json",
        "--limit",
        3,
        "--edits",
        edits,
        "--out",
        edits,
    )
    assert [record["case_id"] for record in edits_cli.records("edits")] == [0, 3, 1, 2], (
        "the used id 0 isn't replaced by 3, the first free one"
    )
    assert len({record["prompt"] for record in edits_cli.records("edits")}) == 4


def test_used_case_ids_are_replaced_by_free_ones() -> None:
    requests = requests_for()  # 0 to 3
    assert [request.case_id for request in replace_used_ids(requests, [])] == [0, 1, 2, 3]
    assert [request.case_id for request in replace_used_ids(requests, [1, "x", 7])] == [0, 8, 2, 3]
    assert [request.case_id for request in replace_used_ids(requests, ["1"])] == [0, 1, 2, 3], (
        "the text '1' counts as the id 1"
    )


def test_other_edits_are_never_overwritten(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("GRACE", "edits")
    words = ["edit", "--hparams", edits_cli.hparams["GRACE"], "--prompt", OTHER, "--target", TARGET]
    edits = edits_cli.folder / "edits"
    message = edits_cli.error_of(*words, "--out", edits)
    assert message.startswith(f"{edits}: holds other edits ({INDEX}, {TENSORS}), which won't be overwritten.")
    assert f"--edits {edits}" in message
    edits_cli.edit("GRACE", "more")
    assert "won't be overwritten" in edits_cli.error_of(*words, "--edits", edits_cli.folder / "more", "--out", edits)


@pytest.mark.parametrize(
    ("words", "expected"),
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
            "field 'subject': is missing; the method looks the fact up at its subject's token. "
            "Name it as the prompt spells it. "
            "Give each --prompt its --subject.",
        ),
        (["--prompt", OTHER, "--target", TARGET, "--subject", "Spain"], "field 'subject': 'Spain' isn't in the prompt"),
        (
            ["--prompt", OTHER, "--target", TARGET, "--subject", "France", "--edits", "nowhere"],
            "nowhere/edits.json: no such file",
        ),
    ],
)
def test_unusable_requests_are_refused_with_their_option_or_field(
    edits_cli: EditsCommandLine, words: list[str], expected: str
) -> None:
    assert expected in edits_cli.error_of(
        "edit", "--hparams", edits_cli.hparams["CoachHook"], *words, "--out", edits_cli.folder / "edits"
    )


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (
            [],
            "is missing; the method looks the fact up at its subject's token. "
            "Name it as the prompt spells it. Give each",
        ),
        (["--subject", "Spain"], "'Spain' isn't in the prompt"),
    ],
)
def test_edits_by_subject_without_a_usable_subject_are_refused(
    edits_cli: EditsCommandLine, subject: list[str], expected: str
) -> None:
    words = ["edit", "--hparams", edits_cli.hparams["GRACE-subject"], "--prompt", OTHER, "--target", TARGET, *subject]
    assert f"field 'subject': {expected}" in edits_cli.error_of(*words, "--out", edits_cli.folder / "edits")
    assert not (edits_cli.folder / "stats").exists(), "second moments were collected before the refusal"


def test_too_long_a_prompt_is_not_reported_as_a_missing_subject(edits_cli: EditsCommandLine) -> None:
    words = ["--prompt", " ".join(["sea"] * 64), "--target", TARGET, "--out", edits_cli.folder / "x"]
    message = edits_cli.error_of("edit", "--hparams", edits_cli.hparams["CoachHook"], *words)
    assert message.endswith("it has 65 tokens, the model's context is 64. Shorten it or leave the record out.")


def test_edits_of_another_model_are_refused_before_second_moments_are_collected(
    edits_cli: EditsCommandLine, tmp_path: Path
) -> None:
    edits_cli.edit("GRACE", "edits")
    fact = [
        "--prompt",
        PROMPT,
        "--target",
        TARGET,
        "--subject",
        SUBJECT,
        "--model",
        edits_cli.changed_checkpoint("other"),
    ]
    message = edits_cli.error_of(
        "edit",
        "--hparams",
        edits_cli.hparams["CoachHook"],
        *fact,
        "--edits",
        edits_cli.folder / "edits",
        "--out",
        tmp_path / "x",
    )
    assert "the fingerprints differ" in message
    assert not (edits_cli.folder / "stats").exists(), "second moments were collected before the refusal"


def test_an_edit_that_fails_saves_nothing(edits_cli: EditsCommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.errors import EditError
    from easyedit_lifelong.methods.grace import trained_edits

    edits_cli.edit("GRACE", "edits")

    def fail(_: Any, __: Any, edits: Any, ___: Any) -> Any:
        raise EditError(f"{edits[0].where}: the loss is NaN")

    monkeypatch.setattr(trained_edits, "train_batch", fail)
    edits = edits_cli.folder / "edits"
    words = ["--prompt", OTHER, "--target", TARGET, "--edits", edits, "--out", edits]
    message = edits_cli.error_of("edit", "--hparams", edits_cli.hparams["GRACE"], *words)
    assert f"--prompt '{OTHER}'" in message
    assert "the loss is NaN" in message


def test_an_interrupted_edit_exits_with_130_and_writes_nothing(
    edits_cli: EditsCommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyedit_lifelong.methods.grace import trained_edits

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(trained_edits, "train_batch", interrupt)
    code, _, err = edits_cli.run(
        "edit",
        "--hparams",
        edits_cli.hparams["GRACE"],
        "--prompt",
        OTHER,
        "--target",
        TARGET,
        "--out",
        edits_cli.folder / "x",
    )
    assert code == 130
    assert err.rstrip().endswith("easyedit-lifelong: interrupted; nothing was written")
    assert not (edits_cli.folder / "x").exists()


def test_a_joiner_is_part_of_the_edit_and_is_saved(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("GRACE", "edits", "--joiner", " not ")
    assert edits_cli.records("edits")[0]["joiner"] == " not "
    assert generated_by(*edits_cli.model("edits"), PROMPT, 8).split()[:2] == ["not", TARGET]
