"""Every method: each of its ports works on its edits. A method that lacks a port skips that port's test."""

from __future__ import annotations

import functools
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from easyedit_lifelong import (
    EditError,
    Probe,
    RunRecord,
    explain,
    export_model,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_case,
    rollback_folder,
    rollback_to_batch,
    run_consecutive,
    run_lifelong,
    save_edits,
)
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.runner import Runner
from tests.conformance.method_cases import PORTS, REQUESTS, MethodCase, each_case, each_case_with
from tests.conformance.observe import PROMPTS, assert_unchanged, differing, equal, logits_of, snapshot_of
from tests.support.tiny_models import DEVICE, build_model, build_tokenizer

CASE_IDS = [request["case_id"] for request in REQUESTS]
PROMPT_OF = {request["case_id"]: request["prompt"] for request in REQUESTS}
CORRECTION = {**REQUESTS[1], "case_id": "corrected", "target_new": "London"}
TESTED_ELSEWHERE = {
    "check": "runs call it",
    "check_requests": "runs call it",
    "prepare": "runs call it",
    "reasons": "it holds texts, not a function",
    "state": "test_conformance_folders.py",
    "edits": "test_conformance_folders.py",
    "calibrate": "tests/methods: it needs a model that knows facts",
    "search_space": "tests/calibration/test_search_spaces.py",
    "train": "tests/runs/test_training.py",
    "study_scope": "tests/commands: it needs a model that knows facts",
}
"""Ports that no test of this file is named after."""


def test_every_port_is_tested() -> None:
    tested = {port for port in PORTS if any(name.startswith(f"test_{port}_") for name in globals())}
    assert set(PORTS) - tested - TESTED_ELSEWHERE.keys() == set(), (
        "each port needs a test in this file whose name starts with test_PORT_"
    )


# ------------------------------------------------------------------ inspect edits


@each_case
def test_explain_names_the_edit_that_answers(case: MethodCase) -> None:
    if case.method.explain is None:
        with pytest.raises(EditError, match=f"{case.method.name}'s edits can't be explained: "):
            explain(case.edited(), build_tokenizer(), PROMPTS[0])
        return
    model, tokenizer = case.edited(), build_tokenizer()
    before = snapshot_of(model)
    for case_id, prompt in PROMPT_OF.items():
        explanation = explain(model, tokenizer, prompt)
        (attribute,) = (
            name for name in json.loads(json.dumps(explanation.to_dict())) if name == case.method.name.lower()
        )
        layers = getattr(explanation, attribute)
        assert layers
        for layer in layers:
            assert len(layer.lines()) > 1, "the lines must name the layer and then its tokens"
        if case.method.remove is not None:  # such a method knows which edit answered
            (answer,) = (line for line in str(explanation).splitlines() if "answered by" in line)
            assert repr(case_id) in answer
    assert_unchanged(model, before)
    with pytest.raises(EditError, match="carries no edits"):
        explain(build_model("llama"), tokenizer, PROMPTS[0])


@each_case_with("edits")
def test_describe_lists_every_request(
    case: MethodCase, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_edits(case.edited(), tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["inspect", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert all(request["prompt"] in output for request in REQUESTS)
    inspection = inspect_edits(tmp_path)
    assert inspection.count == len(REQUESTS)
    (part,) = inspection.parts
    assert part.method == case.method.name
    assert [{name: edit[name] for name in request} for edit, request in zip(part.edits, REQUESTS, strict=True)] == (
        REQUESTS
    )
    assert all(edit["time"].endswith("+00:00") for edit in part.edits)
    assert json.loads(json.dumps(inspection.to_dict()))["count"] == len(REQUESTS)
    if case.method.describe is not None:
        assert part.layers


@each_case_with("counts")
def test_counts_are_positive_for_an_edited_model_and_zero_after_rollback(case: MethodCase) -> None:
    counts = case.method.counts
    model = build_model("llama")
    assert set(counts(model).values()) <= {0}
    rollback = case.apply(model)
    of_edited = counts(model)
    assert of_edited
    assert all(value > 0 and math.isfinite(value) for value in of_edited.values())
    rollback()
    assert set(counts(model).values()) <= {0}


@each_case_with("watch_answers")
def test_watch_answers_tells_when_the_logits_of_a_question_change(case: MethodCase) -> None:
    model, tokenizer = case.edited(REQUESTS[:1]), build_tokenizer()
    texts = [(request["prompt"], request["target_new"]) for request in REQUESTS] + [("old mountain", "blue sea")]
    questions = [encode_pair(tokenizer, prompt, answer) for prompt, answer in texts]

    def logits() -> list[torch.Tensor]:
        runner = Runner(model, tokenizer)
        rows = [torch.tensor([question.tokens[:-1]], device=DEVICE) for question in questions]
        with torch.no_grad():
            return [
                runner.call(ids, torch.ones_like(ids), [len(question.prompt)])
                for ids, question in zip(rows, questions, strict=True)
            ]

    watches = case.method.watch_answers(model, tokenizer, questions)
    states = [([watch() for watch in watches], logits())]
    changes = [functools.partial(case.apply, model, [request]) for request in [*REQUESTS[1:], CORRECTION]]
    removals = [functools.partial(rollback_case, model, case_id) for case_id in ("corrected", *CASE_IDS[:3])]
    for change in changes + removals:
        change()
        states.append(([watch() for watch in watches], logits()))
    seen = set[tuple[bool, bool]]()
    for (values, before), (later_values, after) in itertools.combinations(states, 2):
        for value, later, a, b in zip(values, later_values, before, after, strict=True):
            same_value, same_logits = value == later, torch.equal(a, b)
            assert same_logits or not same_value, "the logits changed, and the value did not"
            seen.add((same_value, same_logits))
    assert seen >= {(True, True), (False, False)}


# ------------------------------------------------------------------ remove edits


@each_case_with("remove")
def test_remove_removes_one_case_and_keeps_the_others(case: MethodCase, tmp_path: Path) -> None:
    model = build_model("llama")
    unedited = snapshot_of(model)
    case.apply(model)
    if case.method.edits is not None:
        save_edits(model, tmp_path / "all")
    with pytest.raises(EditError, match="no edit of case 'nobody'"):
        rollback_case(model, "nobody")
    order = [CASE_IDS[n] for n in (1, 3, 0, 2)]
    for number, case_id in enumerate(order, 1):
        before = logits_of(model)
        (record,) = rollback_case(model, case_id)
        assert (record.case_id, record.prompt) == (case_id, PROMPT_OF[case_id])
        now = logits_of(model)
        assert case.answers_every_prompt or PROMPT_OF[case_id] not in differing(now, unedited.logits)
        assert not set(differing(now, before)) & {PROMPT_OF[kept] for kept in order[number:]}
        if case.method.edits is not None and number < len(order):
            rollback_folder(tmp_path / "all", cases=[case_id])
            loaded = build_model("llama")
            assert [edit["case_id"] for edit in load_edits(loaded, tmp_path / "all").results] == [
                kept for kept in CASE_IDS if kept not in order[:number]
            ]
            assert equal(logits_of(loaded), now)
    assert_unchanged(model, unedited)


@each_case_with("remove_batches")
def test_remove_batches_restores_the_model_after_each_batch(case: MethodCase, tmp_path: Path) -> None:
    model = build_model("llama")
    snapshots = [snapshot_of(model)]
    batches = (REQUESTS[:2], REQUESTS[2:]) if case.method.batchable else (REQUESTS[:1], REQUESTS[1:2])
    for requests in batches:
        case.apply(model, requests)
        snapshots.append(snapshot_of(model))
    save_edits(model, tmp_path / "all")
    with pytest.raises(EditError, match="3"):
        rollback_to_batch(model, 3)
    assert_unchanged(model, snapshots[2])
    for batch in (1, 0):
        rollback_to_batch(model, batch)
        assert_unchanged(model, snapshots[batch])
    rollback_folder(tmp_path / "all", batch=1, out=tmp_path / "first")
    load_edits(model, tmp_path / "first")
    assert_unchanged(model, snapshots[1])


# ------------------------------------------------------------------ merge and export edits


@each_case_with("merge")
def test_merge_joins_the_edits_of_two_folders(case: MethodCase, tmp_path: Path) -> None:
    halves = {"one": REQUESTS[:2], "two": REQUESTS[2:]}
    expected = dict[str, torch.Tensor]()
    for name, requests in halves.items():
        model = case.edited(requests)
        save_edits(model, tmp_path / name)
        prompts = [request["prompt"] for request in requests]
        expected |= zip(prompts, logits_of(model, prompts), strict=True)
    report = merge_edits([tmp_path / name for name in halves], tmp_path / "all")
    assert (report.edits, report.renamed, report.duplicates) == (len(REQUESTS), [], 0)
    model = build_model("llama")
    load_edits(model, tmp_path / "all")
    assert equal(logits_of(model, list(expected)), list(expected.values()))
    (part,) = inspect_edits(tmp_path / "all").parts
    assert [edit["case_id"] for edit in part.edits] == CASE_IDS


@each_case_with("plain_weights")
def test_plain_weights_give_a_checkpoint_with_the_edits(case: MethodCase, tmp_path: Path) -> None:
    plain_weights = case.method.plain_weights
    model = case.edited()
    before, unedited = snapshot_of(model), build_model("llama").state_dict()
    # The model's own weights may already hold the edits.
    weights = {**model.state_dict(), **plain_weights(model).weights}
    assert any(not torch.equal(weights[name], tensor) for name, tensor in unedited.items())
    export = export_model(model, build_tokenizer(), tmp_path / "checkpoint")
    assert export.edits == {case.method.name: len(REQUESTS)}
    assert_unchanged(model, before)
    exported: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint").eval().to(DEVICE)
    now = logits_of(exported)
    assert set(differing(now, logits_of(build_model("llama")))) >= set(PROMPT_OF.values())
    if not export.lost:
        torch.testing.assert_close(now, before.logits, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ the report


@each_case_with("report_sections")
def test_report_sections_have_plots_for_a_run_and_none_for_an_empty_one(case: MethodCase, tmp_path: Path) -> None:
    sections = case.method.report_sections
    run = run_consecutive if case.method.batchable else run_lifelong
    result = run(
        build_model("llama"),
        build_tokenizer(),
        REQUESTS,
        case.hparams(),
        eval_every=1,
        out=tmp_path / "run",
        retention=[Probe("the river", "London")],
    )
    hparams = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["hparams"]
    curve = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    of_run = sections(RunRecord(case.method.name, hparams=hparams, journal=result.journal, curve=curve))
    assert of_run
    for section in of_run:
        assert section.title
        assert section.empty
        for plot in section.plots:
            assert plot.title
            assert plot.alt
            assert plot.caption
    plots = [plot.name for section in of_run for plot in section.plots]
    assert len(plots) == len(set(plots))
    for section in sections(RunRecord(case.method.name)):
        assert not section.plots
