"""``--skip-unusable`` and format files in commands."""

from __future__ import annotations

import json

import pytest
import yaml

from easyedit_lifelong.commands.main import main
from tests.support.command_line import FACTS, RunCommand

BROKEN = [FACTS[0], {"prompt": "no target"}, *FACTS[1:]]


def test_lifelong_lists_unusable_records_or_leaves_them_out(lifelong_cli: RunCommand) -> None:
    lifelong_cli.write(facts=[*BROKEN, 5])
    code, _, error = lifelong_cli.run()
    assert code == 1
    assert "2 records can't be used" in error
    assert "record 1, field 'target_new': is missing." in error
    assert not (lifelong_cli.out / "config.yaml").exists()
    code, _, error = lifelong_cli.run("--skip-unusable")
    assert code == 0, error
    summary = lifelong_cli.summary()
    assert (summary["n_edits"], summary["n_skipped"]) == (len(FACTS), 2)
    assert [entry["case_id"] for entry in summary["skipped"]] == [None, None]
    assert "record 1, field 'target_new': is missing." in summary["skipped"][0]["reason"]
    config = yaml.safe_load((lifelong_cli.out / "config.yaml").read_text())
    assert config["skip_unusable"] is True
    code, _, error = lifelong_cli.run("--skip-unusable", "--resume")
    assert code == 0, error
    assert lifelong_cli.summary()["n_skipped"] == 2


def test_the_summary_names_misspelt_fields(lifelong_cli: RunCommand) -> None:
    lifelong_cli.write(facts=[{**FACTS[1], "localty_prompt": "the moon is"}, *FACTS[2:]])
    code, _, error = lifelong_cli.run()
    assert code == 0, error
    (note,) = lifelong_cli.summary()["data_notes"]
    assert "'localty_prompt' is unknown and isn't read (records with it: 1). Did you mean 'locality_prompt'?" in note


def test_a_run_with_a_format_file_can_be_repeated_from_its_folder(lifelong_cli: RunCommand) -> None:
    columns = [{"question": fact["prompt"], "reply": fact["target_new"]} for fact in FACTS]
    lifelong_cli.data.write_text(json.dumps(columns))
    format_file = lifelong_cli.data.with_name("format.yaml")
    format_file.write_text(yaml.safe_dump({"fields": {"prompt": "{question}", "target_new": "{reply}"}}))
    code, _, error = lifelong_cli.run("--format", format_file)
    assert code == 0, error
    assert lifelong_cli.summary()["n_edits"] == len(FACTS)
    config = yaml.safe_load((lifelong_cli.out / "config.yaml").read_text())
    assert config["data"]["format"] == str(format_file.resolve())


@pytest.mark.parametrize(
    ("command", "unusable"),
    [("edit", "read"), ("train", "read"), ("calibrate", "read"), ("scope", "read or edited")],
)
def test_help_says_which_records_are_left_out(command: str, unusable: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"leave out records that can't be {unusable}, and list them" in " ".join(capsys.readouterr().out.split())
