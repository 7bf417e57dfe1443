"""Which prompts an edit of GRACE by subjects answers: its own, its paraphrases, and locality prompts, by ``named_eps``.

    python benchmarks/matches.py --data FILE --offset 1000 --edits 250 --named-eps none,0.12

All edits are in one codebook. Values are trained for a single step, since no answer is scored: only which edit, if any,
acts at a prompt's last token. So the false fires of a codebook of 1,000 edits can be measured in minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from _machine import describe, machine, stop
from rich.console import Console
from rich.table import Table

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, explain, load_model, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import FOLDER
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.runs.hyperparameter_files import find_method
from easyedit_lifelong.runs.inputs import reader_of

_BATCH = 16


def shares(
    model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams
) -> tuple[float, float, float]:
    """Edit all requests in one codebook, look their prompts up, and roll the edits back.

    Returns:
        The share of prompts that the edit of their request answers, the same for paraphrases, and the share of locality
        prompts that no edit answers. Edits with the same subject and target count as one.
    """
    fact_of = {request.case_id: (request.subject, request.target_new) for request in requests}
    rollbacks = []
    for start in range(0, len(requests), _BATCH):
        rollbacks.append(apply_grace_to_model(model, tokenizer, requests[start : start + _BATCH], hparams)[1])

    def answering(prompt: str) -> tuple[str | None, str] | None:
        (layer,) = explain(model, tokenizer, prompt).grace
        return None if layer.answered_by is None else fact_of[layer.answered_by]

    own = [answering(request.prompt) == fact_of[request.case_id] for request in requests]
    paraphrases = [
        answering(prompt) == fact_of[request.case_id] for request in requests for prompt in request.rephrase_prompts
    ]
    others = [
        answering(probe.prompt) is None
        for request in requests
        for probes in request.locality.values()
        for probe in probes
    ]
    for rollback in reversed(rollbacks):
        rollback()
    return _share(own), _share(paraphrases), _share(others)


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / max(1, len(outcomes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default=str(FOLDER / "counterfact.json"), help="dataset file (default: sample facts)")
    add("--offset", type=int, default=0, help="skip this many records (default 0)")
    add("--edits", type=int, default=20, help="how many records to edit (default 20)")
    add("--hparams", default="GRACE/smollm2-135m-subject", help="hyperparameter file or shipped name")
    add("--named-eps", default="none,0.12", help="values of named_eps, or none (default none,0.12)")
    given = parser.parse_args(arguments)
    try:
        hparams = GraceHyperParams.from_hparams(given.hparams)
        read = reader_of(given.data, None).read
        requests = list(read_requests(given.data, read, limit=given.offset + given.edits))[given.offset :]
        model, tokenizer = load_model(hparams.model_name, "cpu")
        prepare = find_method(hparams).prepare
        if prepare is not None:
            prepare(model, tokenizer, hparams, None)
        table = Table("named_eps", "own prompts", "paraphrases", "locality prompts left alone")
        for text in given.named_eps.split(","):
            named_eps = None if text == "none" else float(text)
            chosen = dataclasses.replace(hparams, named_eps=named_eps, n_iter=1)
            table.add_row(text, *(f"{share:.3f}" for share in shares(model, tokenizer, requests, chosen)))
    except LifelongError as error:
        return stop(error)
    console = Console()
    console.print(describe(machine()))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
