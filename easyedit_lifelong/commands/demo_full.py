"""``demo --full``: edit SmolLM2-135M with sample facts through EasyEdit, first with GRACE, then with CoachHook."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from easyedit_lifelong import bridge
from easyedit_lifelong.commands.demo_folders import DATA_NAME, check_previous_run, delete_folders
from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.data.readers import read_counterfact, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.demo_tables import answers, comparison_table, show_answers
from easyedit_lifelong.reporting.progress import count_progress, edit_progress
from easyedit_lifelong.reporting.runnable_commands import runnable
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.api import run_consecutive, run_lifelong
from easyedit_lifelong.runs.hyperparameter_files import load_hparams
from easyedit_lifelong.runs.state import RunResult

GRACE, COACHHOOK = "GRACE", "CoachHook"
_FACTS_SHOWN = 4

Summaries = dict[str, dict[str, Any]]


def run_demo(
    edits: int,
    out: Path,
    *,
    grace: str | Path = "GRACE/smollm2-135m",
    coachhook: str | Path = "CoachHook/smollm2-135m",
    data: Path = COUNTERFACT,
) -> Summaries:
    """Edit SmolLM2 with sample facts, with each method from the unedited model, and print answers and scores.

    The results are in ``out/GRACE`` and ``out/CoachHook``, with the same files as any run. They replace the results of
    an earlier demo.

    Args:
        edits: number of facts; both methods edit the same ones.
        out: folder for both runs.
        grace: GRACE's hyperparameter file.
        coachhook: CoachHook's hyperparameter file, for the same model.
        data: the facts, in CounterFact's format.

    Returns:
        The ``summary.json`` of each run, by method.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        ModelError: SmolLM2 isn't installed.
        RunError: a folder holds files that aren't an earlier demo's.
        CovarianceError: stored second moments of the model can't be used.
    """
    console = Console()
    folders = {method: out / method for method in (GRACE, COACHHOOK)}
    for folder in folders.values():
        check_previous_run(folder)
    requests = read_requests(data, read_counterfact)[:edits]
    grace_hparams, coachhook_hparams = load_hparams(grace), load_hparams(coachhook)
    demo = _Demo(console, requests)
    console.rule("GRACE: a codebook at one layer", align="left")
    summaries = {
        GRACE: demo.show(
            grace_hparams,
            folders[GRACE],
            functools.partial(run_lifelong, eval_every=25),
            f"Now {len(requests)} facts, one after the other; all edits are kept:",
            # Both runs of an earlier demo are deleted after the new demo's first edit has succeeded.
            before_run=functools.partial(delete_folders, *folders.values()),
        )
    }
    console.print()
    console.rule("CoachHook: weight updates in hook layers", align="left")
    summaries[COACHHOOK] = demo.show(
        coachhook_hparams,
        folders[COACHHOOK],
        run_consecutive,
        f"Now the same {len(requests)} facts, in batches of {coachhook_hparams.batch_size}; all edits are kept:",
        prepare=_provide_moments,
    )
    console.print()
    console.rule("Side by side", align="left")
    comparison_table(console, summaries, f"The same {len(requests)} facts, each method from the unedited model:")
    print_line(
        console,
        f"\nResults: {folders[GRACE]}/ and {folders[COACHHOOK]}/ "
        "(summary.json, journal.jsonl, metrics.jsonl, config.yaml)\n"
        f"A page with plots of both: {runnable('easyedit-lifelong report')} {shlex.join(map(str, folders.values()))}",
    )
    return summaries


@dataclasses.dataclass(frozen=True)
class _Demo:
    """Edits the same facts with several methods, and prints what each does.

    Attributes:
        console: the console.
        requests: the facts.
    """

    console: Console
    requests: list[EditRequest]

    def show(
        self,
        hparams: Any,
        folder: Path,
        loop: Callable[..., RunResult],
        title: str,
        *,
        prepare: Callable[[Console, Any, Any, Any], None] | None = None,
        before_run: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Edit one fact through EasyEdit's ``BaseEditor``, then all facts in a loop; print answers before and after.

        Args:
            hparams: the method's hyperparameters.
            folder: the folder of the run.
            loop: the loop that edits all facts.
            title: printed before the loop starts.
            prepare: computes what the method needs in advance; gets the console, the unedited model, its tokenizer and
                the hyperparameters.
            before_run: called after the first edit has succeeded, before the loop.

        Returns:
            The ``summary.json`` of the run.
        """
        self.console.print("Loading the unedited model through EasyEdit's BaseEditor ...")
        with _quiet_easyedit():
            # A copy, since EasyEdit changes the batch size of the hyperparameters that it gets.
            editor = bridge.base_editor().from_hparams(dataclasses.replace(hparams))
        model, tokenizer = editor.model, editor.tok
        if prepare is not None:
            prepare(self.console, model, tokenizer, hparams)
        shown = self.requests[:_FACTS_SHOWN]
        before = answers(model, tokenizer, shown)
        _edit_once(self.console, editor, self.requests[0])
        before_run()
        self.console.print(f"\n{title}")
        with edit_progress(self.console, len(self.requests)) as progress:
            result = loop(model, tokenizer, self.requests, hparams, out=folder, progress=progress, data_name=DATA_NAME)
        show_answers(self.console, shown, before, answers(result.edited_model, tokenizer, shown))
        return result.summary


def _provide_moments(console: Console, model: Any, tokenizer: Any, hparams: Any) -> None:
    """Collect the second moments that CoachHook needs, unless they are stored already, and show the progress.

    Raises:
        CovarianceError: stored second moments can't be used.
    """
    is_self_sampled = find_corpus(hparams.mom2_dataset).label == "self-sampled"
    text = "text that the model generates" if is_self_sampled else hparams.mom2_dataset
    amount = f"{hparams.mom2_n_tokens:,} tokens" if hparams.mom2_n_tokens else f"{hparams.mom2_n_samples:,} documents"
    layers = ", ".join(map(str, hparams.edited_layers))
    console.print(
        f"CoachHook needs the second moments of the keys of layers {layers}, so that edits change other text little. "
        f"They are collected once, over {amount} of {text}.",
        highlight=False,
    )
    collected = False  # the progress is reported only if the moments are not stored already
    began = time.monotonic()
    with count_progress(console, "collecting") as show_count:

        def progress(done: int, total: int) -> None:
            nonlocal collected
            collected = True
            show_count(done, total)

        prepare: Any = get_plugins().methods.get(COACHHOOK).prepare
        moments = prepare(model, tokenizer, hparams, progress)
    folder = Path(next(iter(moments.values())).source).parent
    source = (
        f"Collected in {time.monotonic() - began:.0f} s and stored in"
        if collected
        else "Found; they were stored by an earlier run in"
    )
    console.print(f"{source} {folder}", highlight=False, soft_wrap=True)


def _edit_once(console: Console, editor: Any, request: EditRequest) -> None:
    """Edit one fact as an EasyEdit script does, and print its scores; EasyEdit rolls the edit back after scoring it."""
    with _quiet_easyedit():
        metrics, _, _ = editor.edit(
            prompts=[request.prompt],
            target_new=[request.target_new],
            ground_truth=[request.ground_truth or ""],
            subject=[request.subject or ""],
            keep_original_weight=True,
            verbose=False,
        )
    pre, post = (metrics[0][phase]["rewrite_acc"][0] for phase in ("pre", "post"))
    console.print(
        f"BaseEditor.edit: {request.prompt!r} -> {request.target_new!r}: rewrite accuracy {pre:.2f} before, "
        f"{post:.2f} after the edit",
        highlight=False,
    )


@contextlib.contextmanager
def _quiet_easyedit() -> Iterator[None]:
    """Hide EasyEdit's prints and log lines; EasyEdit still writes its ``logs`` folder."""
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
