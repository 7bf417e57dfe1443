"""``generate``: the answers of the edited model, and of the base model beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.support.edits_command_line import OTHER, PROMPT, TARGET, EditsDesk, said_by


@pytest.fixture
def desk(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> EditsDesk:
    monkeypatch.setenv("COLUMNS", "100")
    return EditsDesk(tmp_path, checkpoint, capsys)


@pytest.mark.parametrize("method", ["GRACE", "CoachHook"])
def test_what_the_edited_model_says_beside_the_base(desk: EditsDesk, method: str) -> None:
    desk.edit(method, "edits")
    ask = ["generate", "--edits", desk.folder / "edits", "--device", "cpu", "--prompt", PROMPT, "--prompt", OTHER]
    (base, tokenizer), (edited, _) = desk.model(), desk.model("edits")
    out = desk.done(*ask, "--compare", "--max-new-tokens", 3)
    expected = [
        line
        for prompt in (PROMPT, OTHER)
        for line in (
            f"base    {prompt} → {said_by(base, tokenizer, prompt, 3)}",
            f"edited  {prompt} → {said_by(edited, tokenizer, prompt, 3)}",
            "",
        )
    ]
    assert out.splitlines() == expected[:-1]
    assert desk.done(*ask, "--max-new-tokens", 3).splitlines() == [
        expected[1].removeprefix("edited  "),
        "",
        expected[4].removeprefix("edited  "),
    ]
    rows = json.loads(desk.done(*ask, "--compare", "--json"))
    assert rows == [
        {
            "prompt": prompt,
            **{name: said_by(model, tokenizer, prompt, 20) for name, model in (("edited", edited), ("base", base))},
        }
        for prompt in (PROMPT, OTHER)
    ]
    assert json.loads(desk.done(*ask, "--json"))[0].keys() == {"prompt", "edited"}


def test_sampled_text_depends_on_the_seed_and_the_prompt_alone(desk: EditsDesk) -> None:
    desk.edit("GRACE", "edits")
    ask = ["generate", "--edits", desk.folder / "edits", "--json", "--temperature", 5, "--prompt", OTHER]
    texts = [
        json.loads(desk.done(*ask, *more))[0]["edited"]
        for more in ((), ("--seed", 1), ("--prompt", PROMPT), ("--top-p", 0.01), ("--temperature", 0))
    ]
    assert texts[0] != texts[1]
    assert texts[0] == texts[2]
    greedy = said_by(*desk.model("edits"), OTHER, 20)
    assert texts[0] != greedy
    assert texts[3:] == [greedy, greedy]


def test_the_model_is_the_one_that_the_edits_name_in_their_dtype(desk: EditsDesk) -> None:
    values = yaml.safe_load(desk.hparams["GRACE"].read_text())
    desk.hparams["GRACE"].write_text(yaml.safe_dump({**values, "dtype": "bfloat16"}))
    desk.edit("GRACE", "edits")
    ask = ["generate", "--edits", desk.folder / "edits", "--prompt", PROMPT, "--max-new-tokens", 1]
    assert desk.done(*ask).split()[-1] == TARGET
    assert "fingerprints differ" in desk.refused(*ask, "--dtype", "float32")


def test_what_can_not_be_asked(desk: EditsDesk, tmp_path: Path) -> None:
    desk.edit("GRACE", "edits")
    edits = desk.folder / "edits"
    assert "no such file; this folder holds no saved edits" in desk.refused(
        "generate", "--edits", desk.folder / "x", "--prompt", PROMPT
    )
    assert "--prompt '': is empty" in desk.refused("generate", "--edits", edits, "--prompt", "")
    assert "has 65 tokens, the model's context is 64" in desk.refused(
        "generate", "--edits", edits, "--prompt", " ".join(["sea"] * 65)
    )
    other = AutoModelForCausalLM.from_pretrained(desk.checkpoint)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other.save_pretrained(tmp_path / "other")
    for file in desk.checkpoint.glob("tokenizer*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    told = desk.refused("generate", "--edits", edits, "--prompt", PROMPT, "--model", tmp_path / "other")
    assert "the fingerprints differ" in told
    for words in (["--temperature", "-1"], ["--top-p", "2"], ["--temperature", "nan"]):
        code, _, err = desk.run("generate", "--edits", edits, "--prompt", PROMPT, *words)
        assert code == 2
        assert "is not a number " in err


def test_a_model_that_is_not_here_is_asked_for(desk: EditsDesk) -> None:
    desk.edit("GRACE", "edits")
    moved = desk.checkpoint.rename(desk.checkpoint.with_name("moved"))
    try:
        told = desk.refused("generate", "--edits", desk.folder / "edits", "--prompt", PROMPT)
        assert f"these edits were made on '{desk.checkpoint}', which can't be loaded" in told
        assert "--model" in told
        desk.done("generate", "--edits", desk.folder / "edits", "--prompt", PROMPT, "--model", moved)
    finally:
        moved.rename(desk.checkpoint)


def test_code_of_a_checkpoint_is_not_run_because_edits_say_so(desk: EditsDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyedit_lifelong.commands import saved_edits as saved

    values = yaml.safe_load(desk.hparams["GRACE"].read_text())
    desk.hparams["GRACE"].write_text(yaml.safe_dump({**values, "trust_remote_code": True}))
    desk.edit("GRACE", "edits")
    asked: list[dict[str, Any]] = []
    real = saved.load_model
    monkeypatch.setattr(saved, "load_model", lambda *a, **more: asked.append(more) or real(*a, **more))  # type: ignore[func-returns-value]
    desk.done("generate", "--edits", desk.folder / "edits", "--prompt", PROMPT)
    assert len(asked) == 1
    assert not asked[0].get("trust_remote_code")
