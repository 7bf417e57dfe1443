"""A plugin's code that fails while a run is scored: the error names it and the record, and the run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from easyedit_lifelong import (
    EditMethod,
    EditRecord,
    JudgeType,
    PluginHyperParams,
    Rollback,
    SeparateEdit,
    SeparateEditor,
    Verdict,
    hookimpl,
    separate_edit_ports,
)
from easyedit_lifelong.plugins import get_plugins
from tests.support.command_line import RunCommand
from tests.support.tiny_models import build_tokenizer

CONTINUE = "Remove the cause, then continue the run with --resume."
HAMLET = build_tokenizer().convert_tokens_to_ids("Hamlet")


@dataclass(kw_only=True)
class FragileHyperParams(PluginHyperParams):
    """Hyperparameters of the method below."""

    ALG_NAME: ClassVar[str] = "Fragile"


class FragileEditor(SeparateEditor):
    """Changes nothing, and fails."""

    hparams_class = FragileHyperParams
    fails: ClassVar[Callable[[int, Any], bool]]
    """Whether the hook fails, given the number of edits and the ids of the inputs."""

    def attach(self, model: Any) -> Callable[[], None]:
        return model.register_forward_pre_hook(self.look_up, with_kwargs=True).remove

    def look_up(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if type(self).fails(len(self.edits), kwargs["input_ids"]):
            {}["no such key"]


class FragilePlugin:
    """A plugin with a method whose hook in the model fails, and a judge that fails."""

    judge_fails = True

    @hookimpl
    def register_methods(self, register: Any) -> None:
        register(EditMethod("Fragile", FragileHyperParams, self.apply, **separate_edit_ports(FragileEditor)))

    @hookimpl
    def register_judges(self, register: Any) -> None:
        register(JudgeType("fragile", lambda argument: self.judge))

    def apply(self, model: Any, tok: Any, requests: Any, hparams: Any, **_: Any) -> tuple[Any, Rollback]:
        edits = [SeparateEdit(EditRecord.of(request), {}) for request in requests]
        return model, Rollback(FragileEditor.add(model, hparams, edits), on_items=False)

    def judge(self, answers: Any) -> Iterator[Verdict]:
        for answer in answers:
            if self.judge_fails:
                raise ZeroDivisionError("no verdict")
            yield Verdict(float(answer.output == answer.target))


@pytest.fixture
def plugin(lifelong_cli: RunCommand) -> Iterator[FragilePlugin]:
    """The plugin, installed for one test, and hyperparameters of its method."""
    plugin = FragilePlugin()
    get_plugins().add(plugin, "theirs", guard=True)
    lifelong_cli.hparams.write_text(f"alg_name: Fragile\nmodel_name: {lifelong_cli.checkpoint}\ndevice: cpu\n")
    yield plugin
    get_plugins().remove("theirs")


@pytest.mark.parametrize(
    ("fails", "record"),
    [
        (lambda n_edits, ids: n_edits == 2, "record 1 (case 1)"),
        (lambda n_edits, ids: n_edits == 3 and bool((ids == HAMLET).any()), "record 1 (case 1)"),
        (lambda n_edits, ids: n_edits == 3, "record 2 (case 2)"),
    ],
    ids=["at its edit", "when past edits are scored", "at the last edit"],
)
def test_a_hook_that_fails_in_scoring_is_named_with_the_record(
    fails: Callable[[int, Any], bool],
    record: str,
    lifelong_cli: RunCommand,
    plugin: FragilePlugin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FragileEditor, "fails", fails, raising=False)
    code, out, err = lifelong_cli.run()
    assert code == 1 and "Traceback" not in out + err
    message = err.splitlines()[-1]
    line = FragileEditor.look_up.__code__.co_firstlineno + 2
    assert message == (
        "easyedit-lifelong: plugin 'theirs', editing method 'Fragile': the model that it has edited fails when "
        f"{lifelong_cli.data}, {record} is scored: KeyError: 'no such key' ({__file__}, line {line}). {CONTINUE}"
    )
    assert "Traceback" in lifelong_cli.run("-v", "--resume")[2]
    monkeypatch.setattr(FragileEditor, "fails", lambda n_edits, ids: False)
    code, _, err = lifelong_cli.run("--resume")
    assert code == 0, err
    assert lifelong_cli.summary()["n_edits"] == 3


def test_a_judge_that_fails_is_named_with_the_answer(
    lifelong_cli: RunCommand, plugin: FragilePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a judge that yields its verdicts."""
    monkeypatch.setattr(FragileEditor, "fails", lambda n_edits, ids: False, raising=False)
    code, out, err = lifelong_cli.run("--judge", "fragile")
    assert code == 1 and "Traceback" not in out + err
    message = err.splitlines()[-1]
    assert "plugin 'theirs', judge 'fragile': judge fails: ZeroDivisionError: no verdict (" in message
    assert message.endswith(f"), while it judges the answer to 'the capital of France is' and 3 others. {CONTINUE}")
    plugin.judge_fails = False
    code, _, err = lifelong_cli.run("--judge", "fragile", "--resume")
    assert code == 0, err
