"""``generate``: the answers of the edited model and of the base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.edits_command_line import OTHER, PROMPT, TARGET, EditsCommandLine, generated_by


@pytest.mark.parametrize("method", ["GRACE", "CoachHook"])
def test_answers_of_the_edited_and_the_base_model_are_printed_as_text_and_json(
    edits_cli: EditsCommandLine, method: str
) -> None:
    edits_cli.edit(method, "edits")
    command = [
        "generate",
        "--edits",
        edits_cli.folder / "edits",
        "--device",
        "cpu",
        "--prompt",
        PROMPT,
        "--prompt",
        OTHER,
    ]
    (base, tokenizer), (edited, _) = edits_cli.model(), edits_cli.model("edits")
    out = edits_cli.output_of(*command, "--compare", "--max-new-tokens", 3)
    expected = [
        line
        for prompt in (PROMPT, OTHER)
        for line in (
            f"base    {prompt} → {generated_by(base, tokenizer, prompt, 3)}",
            f"edited  {prompt} → {generated_by(edited, tokenizer, prompt, 3)}",
            "",
        )
    ]
    assert out.splitlines() == expected[:-1]
    assert edits_cli.output_of(*command, "--max-new-tokens", 3).splitlines() == [
        expected[1].removeprefix("edited  "),
        "",
        expected[4].removeprefix("edited  "),
    ]
    rows = json.loads(edits_cli.output_of(*command, "--compare", "--json"))
    assert rows == [
        {
            "prompt": prompt,
            **{
                name: generated_by(model, tokenizer, prompt, 20) for name, model in (("edited", edited), ("base", base))
            },
        }
        for prompt in (PROMPT, OTHER)
    ]
    assert json.loads(edits_cli.output_of(*command, "--json"))[0].keys() == {"prompt", "edited"}


def test_sampled_text_depends_only_on_the_seed_and_the_prompt(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("GRACE", "edits")
    command = ["generate", "--edits", edits_cli.folder / "edits", "--json", "--temperature", 5, "--prompt", OTHER]
    texts = [
        json.loads(edits_cli.output_of(*command, *more))[0]["edited"]
        for more in ((), ("--seed", 1), ("--prompt", PROMPT), ("--top-p", 0.01), ("--top-p", 0), ("--temperature", 0))
    ]
    assert texts[0] != texts[1]
    assert texts[0] == texts[2]
    greedy = generated_by(*edits_cli.model("edits"), OTHER, 20)
    assert texts[0] != greedy
    assert texts[3:] == [greedy] * 3


def test_saved_edits_determine_the_model_and_its_dtype(edits_cli: EditsCommandLine) -> None:
    values = yaml.safe_load(edits_cli.hparams["GRACE"].read_text())
    edits_cli.hparams["GRACE"].write_text(yaml.safe_dump({**values, "dtype": "bfloat16"}))
    edits_cli.edit("GRACE", "edits")
    command = ["generate", "--edits", edits_cli.folder / "edits", "--prompt", PROMPT, "--max-new-tokens", 1]
    assert edits_cli.output_of(*command).split()[-1] == TARGET
    assert "fingerprints differ" in edits_cli.error_of(*command, "--dtype", "float32")


def test_unusable_prompts_models_and_sampling_options_are_refused(edits_cli: EditsCommandLine, tmp_path: Path) -> None:
    edits_cli.edit("GRACE", "edits")
    edits = edits_cli.folder / "edits"
    assert "no such file; this folder holds no saved edits" in edits_cli.error_of(
        "generate", "--edits", edits_cli.folder / "x", "--prompt", PROMPT
    )
    assert "--prompt '': is empty" in edits_cli.error_of("generate", "--edits", edits, "--prompt", "")
    assert "has 65 tokens, the model's context is 64" in edits_cli.error_of(
        "generate", "--edits", edits, "--prompt", " ".join(["sea"] * 65)
    )
    message = edits_cli.error_of(
        "generate", "--edits", edits, "--prompt", PROMPT, "--model", edits_cli.changed_checkpoint("other")
    )
    assert "the fingerprints differ" in message
    for words in (["--temperature", "-1"], ["--top-p", "2"], ["--temperature", "nan"]):
        code, _, err = edits_cli.run("generate", "--edits", edits, "--prompt", PROMPT, *words)
        assert code == 2
        assert "is not a number " in err


def test_a_model_that_cannot_be_found_must_be_named(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("GRACE", "edits")
    moved = edits_cli.checkpoint.rename(edits_cli.checkpoint.with_name("moved"))
    try:
        message = edits_cli.error_of("generate", "--edits", edits_cli.folder / "edits", "--prompt", PROMPT)
        assert f"these edits were made on '{edits_cli.checkpoint}', which can't be loaded" in message
        assert "--model" in message
        edits_cli.output_of("generate", "--edits", edits_cli.folder / "edits", "--prompt", PROMPT, "--model", moved)
    finally:
        moved.rename(edits_cli.checkpoint)


def test_saved_edits_cannot_make_a_checkpoints_code_run(
    edits_cli: EditsCommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyedit_lifelong.commands import saved_edits as saved

    values = yaml.safe_load(edits_cli.hparams["GRACE"].read_text())
    edits_cli.hparams["GRACE"].write_text(yaml.safe_dump({**values, "trust_remote_code": True}))
    edits_cli.edit("GRACE", "edits")
    load_options: list[dict[str, Any]] = []
    original = saved.load_model
    monkeypatch.setattr(saved, "load_model", lambda *a, **more: load_options.append(more) or original(*a, **more))  # type: ignore[func-returns-value]
    edits_cli.output_of("generate", "--edits", edits_cli.folder / "edits", "--prompt", PROMPT)
    assert len(load_options) == 1
    assert not load_options[0].get("trust_remote_code")
