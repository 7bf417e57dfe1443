"""A complete third-party plugin: an editing method, a dataset format and a tracker.

The method is as small as one can be. It adds a constant to a logit wherever the text so far ends in
the edited prompt. It is here to show what a plugin consists of, not to edit well.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from easyedit_lifelong import (
    DatasetReader,
    EditMethod,
    EditRequest,
    PluginHyperParams,
    Rollback,
    TrackerType,
    hookimpl,
)


@dataclass(kw_only=True)
class BiasEditHyperParams(PluginHyperParams):
    """Hyperparameters of BiasEdit.

    Attributes:
        strength: what is added to the logit of the target's first token.
    """

    ALG_NAME: ClassVar[str] = "BiasEdit"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("strength",)

    strength: float = 100.0


def apply_biasedit_to_model(
    model: Any, tok: Any, requests: list[Any], hparams: BiasEditHyperParams,
    copy: bool = False, return_orig_weights: bool = True, keep_original_weight: bool = False, **kwargs: Any,
) -> tuple[Any, Rollback[Any]]:  # fmt: skip
    """Edit a model; the signature is the one that EasyEdit calls."""
    wanted = {}
    for request in requests:
        record = request if isinstance(request, EditRequest) else EditRequest.from_dict(request, "request", case_id=0)
        prompt = tuple(tok(record.prompt)["input_ids"])
        wanted[prompt] = tok(" " + record.target_new, add_special_tokens=False)["input_ids"][0]

    def after_forward(_: Any, __: Any, inputs: Mapping[str, Any], output: Any) -> Any:
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            hidden = len(ids) - output.logits.shape[1]  # generate() asks for the last token's logits only
            for end in range(hidden + 1, len(ids) + 1):
                for prompt, token in wanted.items():
                    if tuple(ids[:end])[-len(prompt) :] == prompt:
                        output.logits[row, end - 1 - hidden, token] += hparams.strength
        return output

    handle = model.register_forward_hook(after_forward, with_kwargs=True)
    return model, Rollback(handle.remove, on_items=keep_original_weight)


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
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register the method."""
    register(EditMethod("BiasEdit", BiasEditHyperParams, apply_biasedit_to_model, batchable=True))


@hookimpl
def register_readers(register: Callable[[DatasetReader], None]) -> None:
    """Register the dataset format."""
    register(DatasetReader("tsv", read_tsv, "lines of prompt, tab, target"))


@hookimpl
def register_trackers(register: Callable[[TrackerType], None]) -> None:
    """Register the tracker."""
    register(TrackerType("last", lambda folder, config: LastScores(folder), "last.json in the run's folder"))
