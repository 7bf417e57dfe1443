"""``lifelong``: what it refuses in data, held-out facts, hyperparameters and model, and what the message names."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.command_line import FACTS, RETENTION, RunCommand

LONG = " ".join(["sea"] * 64)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ("{", "not valid JSON"),
        ("", "is empty"),
        ("{}", "must hold a list of records"),
        ([], "holds no records"),
        ([5], "record 0: must be an object"),
        ([*FACTS, {"prompt": "p"}], "record 3, field 'target_new': is missing"),
        ([*FACTS, {"promt": "p", "target_new": "t"}], "record 3, field 'prompt': is missing. Did you mean 'promt'?"),
        ([*FACTS, {"prompt": "p", "target_new": " "}], "record 3, field 'target_new': is empty"),
        ([*FACTS, {"prompt": 7, "target_new": "t"}], "record 3, field 'prompt': must be text, not a number"),
        ([*FACTS, {**FACTS[0], "case_id": 1}], "field 'case_id': 1 is used before"),
        ([*FACTS, {"prompt": LONG, "target_new": "t"}], "record 3 (case 3), field 'prompt': "),
        ([*FACTS, {"prompt": LONG, "target_new": "t"}], "with its answer it has 65 tokens"),
        (
            [*FACTS, {"prompt": "p", "target_new": "t", "ground_truth": LONG}],
            "record 3 (case 3), field 'prompt': with ground_truth it has 65 tokens",
        ),
        (
            [*FACTS, {"prompt": "p", "target_new": "t", "ground_truth": "a b", "rephrase_prompt": LONG[:-4]}],
            "field 'rephrase_prompt': with ground_truth it has 65 tokens",
        ),
        (
            [
                *FACTS,
                {
                    "prompt": "p",
                    "target_new": "t u",
                    "ground_truth": "a",
                    "locality_prompt": LONG[:-4],
                    "locality_ground_truth": "b",
                },
            ],
            "field 'locality_prompt': with target_new it has 65 tokens",
        ),
        (
            [*FACTS, {"prompt": "p\ud83d", "target_new": "t"}],
            "record 3, field 'prompt': holds an incomplete character (\\ud83d, at position 1)",
        ),
        ([*FACTS, {"prompt": LONG, "target_new": "t"}], "context is 64. Shorten it or leave the record out."),
    ],
    ids=[
        "truncated JSON",
        "empty file",
        "no list",
        "empty list",
        "record that is a number",
        "missing target",
        "misspelled prompt",
        "blank target",
        "prompt that is a number",
        "repeated case_id",
        "long prompt: its record",
        "long prompt: its length",
        "long ground truth",
        "long paraphrase",
        "long locality prompt",
        "an incomplete character",
        "long prompt: the advice",
    ],
)
def test_bad_data_is_refused_with_its_file_and_field(lifelong_cli: RunCommand, facts: Any, expected: str) -> None:
    lifelong_cli.write(facts)
    message = lifelong_cli.error_of()
    assert message.startswith(str(lifelong_cli.data))
    assert expected in message


@pytest.mark.parametrize(("data_format", "field"), [("zsre", "src"), ("rome-counterfact", "requested_rewrite")])
def test_data_of_another_format_are_refused_with_field_and_format(
    lifelong_cli: RunCommand, data_format: str, field: str
) -> None:
    message = lifelong_cli.error_of(format=data_format)
    assert message.startswith(f"{lifelong_cli.data}: ")
    assert "give --format json" in message
    assert f"record 0, field {field!r}: is missing" in message


def test_missing_input_files_are_named(lifelong_cli: RunCommand) -> None:
    missing = lifelong_cli.folder / "nothing"
    assert lifelong_cli.error_of(data=missing) == f"{missing}: no such data file"
    assert lifelong_cli.error_of(retention=missing) == f"{missing}: no such retention file"
    assert lifelong_cli.error_of(hparams=missing).startswith(f"{missing}: no such hyperparameter file")
    assert lifelong_cli.error_of(data=lifelong_cli.folder) == f"{lifelong_cli.folder}: is a folder, not a data file"


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        ("[", "not valid JSON"),
        ([{"prompt": "p"}], "record 0, field 'answer'"),
        ([*RETENTION, {"prompt": "", "answer": "a"}], "record 1, field 'prompt'"),
        ([5], "record 0"),
        ({"prompt": "p", "answer": "a"}, "must hold a list"),
        ("5", "must hold a list"),
        ([], "holds no"),
        ([{"prompt": LONG, "answer": "a"}], "context is 64"),
    ],
    ids=[
        "truncated JSON",
        "missing answer",
        "blank prompt",
        "record that is a number",
        "no list",
        "a number",
        "empty list",
        "long prompt",
    ],
)
def test_bad_held_out_facts_are_refused(lifelong_cli: RunCommand, retention: Any, expected: str) -> None:
    lifelong_cli.write(retention=retention)
    assert expected in lifelong_cli.error_of()


def test_held_out_facts_that_are_not_utf8_are_refused(lifelong_cli: RunCommand) -> None:
    lifelong_cli.retention.write_bytes(b'[{"prompt": "caf\xe9", "answer": "x"}]')
    assert lifelong_cli.error_of().startswith(f"{lifelong_cli.retention}: is not UTF-8 text")


def test_an_unknown_format_is_refused_with_a_suggestion(lifelong_cli: RunCommand) -> None:
    assert "'zrse'. Did you mean 'zsre'?" in lifelong_cli.error_of(format="zrse")


def test_an_unknown_tracker_is_refused_with_the_known_ones(lifelong_cli: RunCommand) -> None:
    assert "no tracker is called 'abacus'. Known: csv" in lifelong_cli.error_of("--track", "abacus")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"n_itr": 5}, "unknown hyperparameter 'n_itr'. Did you mean 'n_iter'?"),
        ({"n_iter": "many"}, "n_iter: 'many' is not a whole number"),
        ({"dist_fn": "euk"}, "dist_fn: 'euk' isn't one of euc, cos. Did you mean 'euc'?"),
        ({"alg_name": "GRAC"}, "'GRAC'. Did you mean 'GRACE'?"),
        ({"alg_name": "ROMEO"}, "alg_name: EasyEdit has no method 'ROMEO'. Did you mean 'ROME'?"),
        ({"alg_name": "IKE"}, "only methods that rewrite weights can"),
        ({"alg_name": None}, "alg_name: missing"),
        ({"inner_params": []}, "inner_params: GRACE edits one layer, 0 are named"),
        ({"model_name": None}, "model_name"),
        ({"model_name": 7}, "model_name"),
        ({"model_name": ["a", "b"]}, "model_name"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_hyperparameters_are_refused_with_their_file(
    lifelong_cli: RunCommand, values: dict[str, Any], expected: str
) -> None:
    lifelong_cli.write(**values)
    message = lifelong_cli.error_of()
    assert message.startswith(str(lifelong_cli.hparams)), "the message doesn't begin with the file"
    assert expected in message


def test_hyperparameters_that_are_not_yaml_are_refused(lifelong_cli: RunCommand) -> None:
    lifelong_cli.hparams.write_text("a: [")
    assert "not valid YAML" in lifelong_cli.error_of()


def test_an_unknown_layer_is_refused_with_a_suggestion(lifelong_cli: RunCommand) -> None:
    lifelong_cli.write(inner_params=["model.layers[2].mlp.down_prj.weight"])
    message = lifelong_cli.error_of()
    assert "'model.layers[2].mlp.down_prj.weight'" in message
    assert "Did you mean 'model.layers.2.mlp.down_proj'?" in message


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_an_unavailable_device_is_refused_with_the_available_ones(lifelong_cli: RunCommand, device: str) -> None:
    for options in ({"device": device}, {}):
        lifelong_cli.write(device=device)
        message = lifelong_cli.error_of(**options)
        assert f"device: {device!r}" in message
        assert "Use one of: auto" in message


def test_an_unknown_dtype_is_refused_with_the_known_ones(lifelong_cli: RunCommand) -> None:
    lifelong_cli.write(dtype="float33")
    assert "dtype: 'float33' isn't known. Use one of: auto, float32" in lifelong_cli.error_of()


def test_a_folder_without_a_model_is_refused(lifelong_cli: RunCommand) -> None:
    empty = lifelong_cli.folder / "empty"
    empty.mkdir()
    message = f"{empty}: this folder holds no model (it has no config.json). Give a checkpoint folder."
    assert lifelong_cli.error_of(model=empty) == message
    assert f"{lifelong_cli.folder / 'nothing'}: no such folder" in lifelong_cli.error_of(
        model=lifelong_cli.folder / "nothing"
    )


@pytest.mark.parametrize("words", [("--lm-eval-limit", "3"), ("--lm-eval-path", "tasks")])
def test_options_of_tasks_without_tasks_are_refused(lifelong_cli: RunCommand, words: tuple[str, str]) -> None:
    lifelong_cli.write()
    code, _, error = lifelong_cli.run(*words)
    assert code == 1
    assert f"{words[0]}: also give --lm-eval, which names the tasks" in error
