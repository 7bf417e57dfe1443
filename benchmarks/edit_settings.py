"""Compare two values of a hyperparameter: seconds, steps, losses and scores of the same edits.

    python benchmarks/edit_settings.py --hparams GRACE/smollm2-135m-subject [--data FILE --offset N --edits 20]
    python benchmarks/edit_settings.py --hparams GRACE/smollm2-135m-subject --compare likely_tokens=0,2048
    python benchmarks/edit_settings.py --hparams CoachHook/smollm2-135m --text TEXT_FILE

Both sides edit the same requests alternately in one process, from the unedited model. By default they are the
optimisers of GRACE's values, or of the target vectors of methods that locate and then edit: Adam and limited-memory
BFGS.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from _machine import alternate, describe, finish, machine, median, stop
from rich.console import Console
from rich.table import Table

from easyedit_lifelong import load_model, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import FOLDER
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.text_scores import ngram_entropy, read_text
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file
from easyedit_lifelong.runs.hyperparameter_files import find_method, make_hparams
from easyedit_lifelong.runs.inputs import reader_of

CONTINUATION = 60
"""The number of tokens by which a prompt is continued to measure the entropy of the text."""


@dataclasses.dataclass
class Side:
    """The measurements of one value of the hyperparameter.

    Attributes:
        seconds: wall seconds an edit, one entry for each run.
        cpu: CPU seconds an edit of all threads of this process, one entry for each run.
        steps: mean number of steps of an edit.
        loss: mean loss of an edit, and the largest.
        learned: share of the edits that were learned.
        scores: scores of all edits after the last one.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    steps: float = 0.0
    loss: tuple[float, float] = (0.0, 0.0)
    learned: float = 0.0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)


class Comparison:
    """Edits the same requests with several hyperparameters.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        requests: the requests.
        batch: number of requests in each call.
        text: a held-out text, whose perplexity is scored; None for none.
    """

    def __init__(
        self, model: Any, tokenizer: Any, requests: Sequence[EditRequest], batch: int, text: str | None
    ) -> None:
        self.model, self.tokenizer, self.requests, self.batch = model, tokenizer, requests, batch
        self._scorer = Scorer(tokenizer)
        self._board = Scoreboard(self._scorer, model, requests, [], generation_requests=[], text=text)

    def edit(self, side: Side, hparams: Any) -> None:
        """Edit all requests; add the measurements to a side, and roll all edits back."""
        apply = find_method(hparams).apply
        began, began_cpu = time.perf_counter(), time.process_time()
        rollbacks = []
        for start in range(0, len(self.requests), self.batch):
            _, rollback = apply(self.model, self.tokenizer, self.requests[start : start + self.batch], hparams)
            rollbacks.append(rollback)
        side.seconds.append((time.perf_counter() - began) / len(self.requests))
        side.cpu.append((time.process_time() - began_cpu) / len(self.requests))
        results = [result for rollback in rollbacks for result in rollback.results]
        losses = [result.loss for result in results]
        side.steps = sum(result.steps for result in results) / len(results)
        side.loss = sum(losses) / len(losses), max(losses)
        side.learned = sum(result.learned for result in results) / len(results)
        if not side.scores:  # every run makes the same edits
            side.scores = self.scores()
        for rollback in reversed(rollbacks):
            rollback()

    def scores(self) -> dict[str, float]:
        """Return the scores of all requests, and the mean entropy of greedy continuations of their prompts, in bits."""
        scores = self._board.score(self.model, self.requests).values
        prompts = [request.prompt for request in self.requests]
        texts = self._scorer.generate(self.model, prompts, CONTINUATION)
        entropies = [ngram_entropy(f"{prompt} {text}") or 0.0 for prompt, text in zip(prompts, texts, strict=True)]
        return {**scores, "entropy": sum(entropies) / len(entropies)}


def table_of(setting: str, sides: Mapping[str, Side], unedited: Mapping[str, float]) -> Table:
    """Return the measurements of the values of a setting as a table, with the scores of the unedited model."""
    names = [
        name for name in ("reliability", "generality", "locality", "text_perplexity", "entropy") if name in unedited
    ]
    table = Table(setting, "s an edit", "CPU s", "steps", "mean loss", "largest", "learned", *names)
    for name, side in sides.items():
        figures = (median(side.seconds), median(side.cpu))
        scores = (f"{x:.3f}" for x in (*side.loss, side.learned, *(side.scores[score] for score in names)))
        table.add_row(name, *(f"{x:.3f}" for x in figures), f"{side.steps:.1f}", *scores)
    table.add_row("unedited", *[""] * 6, *(f"{unedited[score]:.3f}" for score in names))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default=str(FOLDER / "counterfact.json"), help="dataset file (default: sample facts)")
    add("--offset", type=int, default=0, help="skip this many records (default 0)")
    add("--hparams", default="GRACE/smollm2-135m-subject", help="hyperparameter file or shipped name")
    add("--compare", default="optimizer=adam,lbfgs", help="FIELD=THEIRS,OURS: the two values (default %(default)s)")
    add("--edits", type=int, default=20, help="how many records to edit (default 20)")
    add("--batch", type=int, help="edits in each call (default: batch_size of the hyperparameters)")
    add("--runs", type=int, default=3, help="runs of each side (default 3)")
    add("--text", help="file with a held-out text, whose perplexity is scored")
    given = parser.parse_args(arguments)
    setting, _, values = given.compare.partition("=")
    names = values.split(",")
    if len(set(names)) != 2:
        parser.error(f"--compare {given.compare}: expected FIELD=THEIRS,OURS with two values")
    try:
        file = find_hparams(given.hparams)
        contents = read_hparams_file(file)
        hparams = make_hparams(contents, str(file))
        if not hasattr(hparams, setting):
            return stop(f"{given.hparams}: {hparams.alg_name} has no {setting}")
        compared = {name: make_hparams({**contents, setting: yaml.safe_load(name)}, str(file)) for name in names}
        read = reader_of(given.data, None).read
        requests = list(read_requests(given.data, read, limit=given.offset + given.edits))[given.offset :]
        model, tokenizer = load_model(hparams.model_name, "cpu")
        text = None if given.text is None else read_text(given.text)
        prepare = find_method(hparams).prepare
        if prepare is not None:
            prepare(model, tokenizer, hparams, None)
        batch = given.batch or hparams.batch_size
        comparison = Comparison(model, tokenizer, requests, batch, text)
        unedited = comparison.scores()
        Comparison(model, tokenizer, requests[:1], 1, None).edit(Side(), hparams)  # untimed
        sides = {name: Side() for name in names}

        def run(name: str, _: int) -> None:
            comparison.edit(sides[name], compared[name])

        alternate(given.runs, *(functools.partial(run, name) for name in sides))
    except LifelongError as error:
        return stop(error)
    console = Console(width=160)
    console.print(describe(machine()))
    console.print(table_of(setting, sides, unedited))
    finish(
        "edit_settings",
        ours=median(sides[names[1]].seconds),
        theirs=median(sides[names[0]].seconds),
        unit=f"seconds an edit: {setting} {names[1]} (ours), {names[0]} (theirs)",
        sides={name: dataclasses.asdict(side) for name, side in sides.items()},
        unedited=unedited,
        edits=len(requests),
        batch=batch,
        hparams=given.hparams,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
