"""A complete third-party plugin: an editing method with its ports, a dataset format and a tracker.

The method is as small as possible: it adds a constant to a logit wherever the text so far ends in the edited
prompt. It shows what a plugin consists of; it is no good editor.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import easyedit_lifelong as lifelong
from easyedit_lifelong import EditRequest, hookimpl


@dataclass(kw_only=True)
class BiasEditHyperParams(lifelong.PluginHyperParams):
    """Hyperparameters of BiasEdit.

    Attributes:
        strength: the constant that is added to the logit of the target's first token.
    """

    ALG_NAME: ClassVar[str] = "BiasEdit"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("strength",)

    strength: float = 100.0


class BiasEditor(lifelong.SeparateEditor):
    """A model's edits, each with the tokens of its prompt, its target's first token, and the strength."""

    hparams_class = BiasEditHyperParams
    columns: ClassVar[Mapping[str, str]] = {"strength": "strength"}

    def attach(self, model: Any) -> Callable[[], None]:
        """Attach the forward hook to a model; return a function that removes it."""
        self.applied: dict[int, int | str] = {}
        return model.register_forward_hook(self.add_biases, with_kwargs=True).remove

    def add_biases(self, _: Any, __: Any, inputs: Mapping[str, Any], output: Any) -> Any:
        """Add to the logits at every token where the text so far ends in an edited prompt."""
        self.applied = {}
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            hidden = len(ids) - output.logits.shape[1]  # generate() asks for the last token's logits only
            for end in range(hidden + 1, len(ids) + 1):
                for edit in self.edits:
                    if ids[:end][-len(edit.data["prompt_ids"]) :] == edit.data["prompt_ids"]:
                        output.logits[row, end - 1 - hidden, edit.data["target_id"]] += edit.data["strength"]
                        self.applied[end - 1] = edit.record.case_id
        return output


def apply_biasedit_to_model(
    model: Any,
    tok: Any,
    requests: list[Any],
    hparams: BiasEditHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, lifelong.Rollback[Any]]:
    """Edit a model; EasyEdit calls this signature."""
    edits, model = [], deepcopy(model) if copy else model
    for request in requests:
        checked = request if isinstance(request, EditRequest) else EditRequest.from_dict(request, "request", case_id=0)
        target = tok(" " + checked.target_new, add_special_tokens=False)["input_ids"][0]
        data = {"prompt_ids": tok(checked.prompt)["input_ids"], "target_id": target, "strength": hparams.strength}
        edits.append(lifelong.SeparateEdit(lifelong.EditRecord.of(checked), data))
    return model, lifelong.Rollback(BiasEditor.add(model, hparams, edits), on_items=keep_original_weight)


@dataclass(frozen=True)
class BiasedLogits:
    """The tokens of a prompt, each with its text and the case whose edit changed the logits there."""

    tokens: list[tuple[str, int | str | None]]

    def lines(self) -> list[str]:
        """Return a heading, and a line for each token."""
        cases = ["" if case is None else f"  answered by case {case!r}" for _, case in self.tokens]
        return ["BiasEdit, logits", *(f"  {text!r}{case}" for (text, _), case in zip(self.tokens, cases, strict=True))]


@contextmanager
def explain(model: Any, explained: lifelong.ExplainedPass) -> Iterator[Callable[[], list[BiasedLogits]]]:
    """Explain the forward pass that is made in this context."""
    texts, editors = list(enumerate(explained.texts)), BiasEditor.all_on(model)
    yield lambda: [BiasedLogits([(text, editor.applied.get(n)) for n, text in texts]) for editor in editors]


def report_sections(run: lifelong.RunRecord) -> list[lifelong.ReportSection]:
    """Plot the number of edits on the model, in the report of a run."""
    series = [lifelong.Series("", run.counts("n_biases"))]
    plot = lifelong.ReportPlot("biases", "Biases", "One for each edit.", "A rising line", "number of biases", series)
    return [lifelong.ReportSection("biases", "Biases", [plot] if series[0].points else [], "There are no counts.")]


def read_tsv(path: Path) -> Iterator[EditRequest]:
    """Read lines of prompt, tab, target."""
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t")):
            record = dict(zip(("prompt", "target_new"), row, strict=False))
            yield EditRequest.from_dict(record, f"{path}, line {number + 1}", case_id=number)


class LastScores:
    """Keeps the latest scores in ``last.json``."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "last.json"

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Replace the file."""
        self.file.write_text(json.dumps({"n_edits": step, **metrics}), encoding="utf-8")

    def close(self) -> None:
        """There is nothing to release."""


@hookimpl
def register_methods(register: Callable[[lifelong.EditMethod], None]) -> None:
    """Register the method."""
    ports = lifelong.separate_edit_ports(BiasEditor)  # edits, remove and describe
    ports |= {"explain": explain, "report_sections": report_sections}
    ports["counts"] = lambda model: {"n_biases": sum(len(editor.edits) for editor in BiasEditor.all_on(model))}
    register(lifelong.EditMethod("BiasEdit", BiasEditHyperParams, apply_biasedit_to_model, batchable=True, **ports))


@hookimpl
def register_readers(register: Callable[[lifelong.DatasetReader], None]) -> None:
    """Register the dataset format."""
    register(lifelong.DatasetReader("tsv", read_tsv, "lines of prompt, tab, target"))


@hookimpl
def register_trackers(register: Callable[[lifelong.TrackerType], None]) -> None:
    """Register the tracker."""
    register(lifelong.TrackerType("last", lambda folder, config: LastScores(folder), "last.json in the run's folder"))
