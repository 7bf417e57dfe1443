"""Compare the updates of MEMIT-like methods at the same target vectors, over hundreds or thousands of edits.

    python benchmarks/shared_targets.py --rules rules.yaml --data FILE --first 3000 --edits 100,1000

Nearly all the time of such an edit is the optimisation of its target vector. Here the target vectors of all records are
optimised once, on the unedited model, and kept in a file. Every rule gets them, so that the scores differ by the
updates alone. (In a run, each batch is optimised on the model that has the earlier edits.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from _machine import describe, machine, stop
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from easyedit_lifelong import load_model, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.locate_edit.target_vectors import optimise_targets
from easyedit_lifelong.methods.locate_edit.templates import context_templates
from easyedit_lifelong.methods.neuraldb.config import NeuralDBHyperParams
from easyedit_lifelong.methods.neuraldb.make_edits import FactEditing
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import editing
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.runs.hyperparameter_files import find_method, make_hparams
from easyedit_lifelong.runs.inputs import reader_of

TARGET_SETTINGS = (
    "model_name",
    "dtype",
    "fact_token",
    "v_num_grad_steps",
    "optimizer",
    "v_lr",
    "v_loss_layer",
    "v_weight_decay",
    "v_stop_loss",
    "clamp_norm_factor",
    "kl_factor",
    "context_template_length_params",
    "mention_templates",
    "seed",
)
"""The hyperparameters that determine a target vector."""

SHOWN = ("reliability", "generality", "locality", "TRR", "generation_match", "generation_match_rephrase")


@dataclass(frozen=True)
class Rule:
    """A method with its settings.

    Attributes:
        label: its name in the table.
        hparams: the hyperparameters.
    """

    label: str
    hparams: Any

    def editor(self, model: Any, tokenizer: Any) -> Any:
        """Return the editor of the method for a model; its ``edit`` takes requests and their target vectors.

        Raises:
            LifelongError: the method has no such editor.
        """
        if isinstance(self.hparams, NeuralDBHyperParams):
            return FactEditing(model, tokenizer, self.hparams)
        if not find_method(self.hparams).batchable:  # this also imports the method's editor
            raise LifelongError(f"{self.label}: {self.hparams.alg_name} has target vectors of another kind")
        for cls in _subclasses(WeightEditor):
            if getattr(cls, "hparams_class", None) is type(self.hparams):  # classes between have none
                return cls.on(model, tokenizer, self.hparams, second_moments(model, tokenizer, self.hparams))
        raise LifelongError(f"{self.label}: {self.hparams.alg_name} does not take target vectors")


def read_rules(path: Path) -> list[Rule]:
    """Read the rules: a YAML list of ``{label: TEXT, hparams: NAME_OR_FILE, set: {FIELD: VALUE}}``.

    Raises:
        LifelongError: a rule cannot be used.
    """
    rules = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        file = find_hparams(entry["hparams"])
        rules.append(Rule(entry["label"], make_hparams({**read_hparams_file(file), **entry.get("set", {})}, str(file))))
    return rules


def _subclasses(parent: type[WeightEditor[Any]]) -> list[type[WeightEditor[Any]]]:
    """Return all subclasses of a class."""
    return [cls for child in parent.__subclasses__() for cls in (child, *_subclasses(child))]


class Targets:
    """Optimises the target vectors of requests on the unedited model, and keeps them in a file.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        path: the file.
        console: prints progress.
    """

    def __init__(self, model: Any, tokenizer: Any, path: Path, console: Console) -> None:
        self._model, self._tokenizer, self._path, self._console = model, tokenizer, path, console
        self._runner = Runner(model, tokenizer)
        self.known: dict[str, Tensor] = load_file(path) if path.is_file() else {}

    def names(self, requests: Sequence[EditRequest], hparams: Any) -> list[str]:
        """Return the name of each request's target vector, which depends on everything that determines it."""
        settings = [getattr(hparams, name) for name in TARGET_SETTINGS] + [hparams.edited_layers[-1]]
        texts = [json.dumps([settings, request.prompt, request.subject, request.target_new]) for request in requests]
        return [hashlib.sha256(text.encode()).hexdigest() for text in texts]

    def of(self, requests: Sequence[EditRequest], hparams: Any, size: int = 10) -> Tensor:
        """Return the target vectors of requests, shape ``(requests, width)``. Optimise and store those not yet known.

        Args:
            requests: the requests.
            hparams: the hyperparameters, which determine the target vectors.
            size: the number of requests that are optimised in one batch.
        """
        names = self.names(requests, hparams)
        missing = [index for index, name in enumerate(names) if name not in self.known]
        began = time.perf_counter()
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            z = self._optimise([requests[index] for index in batch], hparams)
            self.known |= {names[index]: vector.clone() for index, vector in zip(batch, z, strict=True)}
            save_file(self.known, self._path)
            done = start + len(batch)
            seconds = (time.perf_counter() - began) / done
            self._console.print(f"target vectors: {done} of {len(missing)}, {seconds:.2f} s each")
        return torch.stack([self.known[name] for name in names])

    def _optimise(self, requests: Sequence[EditRequest], hparams: Any) -> Tensor:
        """Optimise the target vectors of one batch, shape ``(requests, width)``."""
        templates = context_templates(
            self._model, self._tokenizer, hparams.context_template_length_params, hparams.seed
        )
        limit = context_length(self._model)
        facts = [encode_fact(self._tokenizer, request, templates, hparams, limit) for request in requests]
        with editing(self._model):
            return optimise_targets(self._runner, facts, hparams, hparams.edited_layers[-1]).z.detach()


class Comparison:
    """Applies every rule to the same records, and scores it.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        requests: the records.
        targets: their target vectors.
        counts: the numbers of edits after which to score, in ascending order.
        sample: the number of past edits that are scored.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        targets: Targets,
        counts: Sequence[int],
        sample: int,
    ) -> None:
        self.model, self.tokenizer, self.requests, self.targets = model, tokenizer, requests, targets
        self.scored = {count: sample_of(requests[:count], sample) for count in counts}
        every_scored = {request.case_id: request for scored in self.scored.values() for request in scored}
        scorer = scorer_for(model, tokenizer)
        self._board = Scoreboard(scorer, model, list(every_scored.values()), retention_probes())

    def before(self, count: int) -> dict[str, float]:
        """Return the scores of the unedited model on the records that are scored after ``count`` edits."""
        scores = self._board.before(self.scored[count]).values
        return {name: scores[f"{name}_before"] for name in SHOWN if f"{name}_before" in scores} | {"locality": 1.0}

    def run(self, rule: Rule, size: int) -> list[dict[str, Any]]:
        """Apply a rule in batches of ``size``, score it after each number of edits, and roll it back.

        Returns:
            A row for each number of edits.
        """
        hparams, rows, seconds, done = rule.hparams, [], 0.0, 0
        hparams.batch_size = size
        z = self.targets.of(self.requests, hparams)
        editor = rule.editor(self.model, self.tokenizer)
        with ExitStack() as rollbacks:
            for count, scored in self.scored.items():
                began = time.perf_counter()
                rollbacks.callback(editor.edit(self.requests[done:count], z[done:count])[1])
                seconds, done = seconds + time.perf_counter() - began, count
                scores = self._board.score(self.model, scored) | self._board.score_generation(self.model, scored)[0]
                row = {name: scores.values[name] for name in SHOWN if name in scores.values}
                rows.append({"rule": rule.label, "edits": count, **row, "seconds": seconds / count})
        return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the rows as a table."""
    names = [name for name in SHOWN if any(name in row for row in rows)]
    result = Table("rule", "edits", *names, "update s/edit", box=box.SIMPLE)
    for row in rows:
        shown = [f"{row[name]:.3f}" if name in row else "-" for name in names]
        result.add_row(row["rule"], str(row["edits"]), *shown, f"{row['seconds']:.3f}" if "seconds" in row else "-")
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", type=Path, required=True, help="YAML list of {label, hparams, set: {field: value}}")
    parser.add_argument("--data", type=Path, required=True, help="records")
    parser.add_argument("--first", type=int, default=0, help="number of the first record (default %(default)s)")
    parser.add_argument("--edits", default="100", help="numbers of edits to score after (default %(default)s)")
    parser.add_argument("--bsz", type=int, default=10, help="edits in a batch (default %(default)s)")
    parser.add_argument("--sample", type=int, default=200, help="score a sample of N past edits (default %(default)s)")
    parser.add_argument("--targets", type=Path, default=Path("targets.safetensors"), help="file of target vectors")
    parser.add_argument("--threads", type=int, help="torch's threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    options, console = arguments(argv), Console(stderr=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    counts = sorted(int(number) for number in options.edits.split(","))
    try:
        rules = read_rules(options.rules)
        requests = read_requests(options.data, reader_of(options.data, None).read)
        requests = requests[options.first : options.first + counts[-1]]
        model, tokenizer = load_model(rules[0].hparams.model_name, rules[0].hparams.device, rules[0].hparams.dtype)
        console.print(describe(machine()))
        targets = Targets(model, tokenizer, options.targets, console)
        comparison = Comparison(model, tokenizer, requests, targets, counts, options.sample)
        rows: list[dict[str, Any]] = []
        for count in counts:
            rows.append({"rule": "unedited", "edits": count, **comparison.before(count)})
        for rule in rules:
            rows += comparison.run(rule, options.bsz)
            console.print(table(rows[-len(counts) :]))
            sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows[-len(counts) :]))
            sys.stdout.flush()
    except LifelongError as error:
        return stop(error)
    console.print(table(rows))
    sys.stdout.write(json.dumps({"name": "shared_targets", "rows": rows, "machine": machine()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
