"""The demo: SmolLM2-135M, edited with sample facts through EasyEdit, by GRACE and then by CoachHook."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from easyedit_lifelong import bridge
from easyedit_lifelong.commands.demo_moments import provide_moments
from easyedit_lifelong.data.readers import read_counterfact, read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.reporting.demo_tables import answers, comparison_table, show_answers
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.runs.api import run_consecutive, run_lifelong
from easyedit_lifelong.runs.checks import RunResult
from easyedit_lifelong.runs.run_folder import CONFIG

GRACE, COACHHOOK = "GRACE", "CoachHook"
_DATA_NAME = "sample facts (CounterFact form)"
_SHOWN = 4

Summaries = dict[str, dict[str, Any]]


def run_demo(
    edits: int,
    out: Path,
    *,
    grace: str | Path = "GRACE/smollm2-135m",
    coachhook: str | Path = "CoachHook/smollm2-135m",
    data: Path = COUNTERFACT,
) -> Summaries:
    """Edit SmolLM2 with the first sample facts, by either method from the unedited model, and print what changed.

    Results lie in ``out/GRACE`` and ``out/CoachHook``, in the same form as any other run's; those of an
    earlier demo there are replaced.

    Args:
        edits: how many facts, the same ones for both methods.
        out: folder for both runs.
        grace: GRACE's hyperparameter file.
        coachhook: CoachHook's, for the same model.
        data: the facts, in CounterFact's form.

    Returns:
        What each run's ``summary.json`` holds, by method.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        ModelError: SmolLM2 isn't installed.
        RunError: a folder holds a run that isn't a demo's.
        CovarianceError: stored second moments of the model can't be used.
    """
    console = Console()
    folders = {method: out / method for method in (GRACE, COACHHOOK)}
    for folder in folders.values():
        _check_previous(folder)
    requests = read_requests(data, read_counterfact)[:edits]
    stream, batches = GraceHyperParams.from_hparams(grace), CoachHookHyperParams.from_hparams(coachhook)
    # An earlier demo's runs go together, once the new one is known to work.
    clear = functools.partial(_remove, list(folders.values()))
    demo = _Demo(console, requests)
    console.rule("GRACE: a codebook beside one layer", align="left")
    summaries = {
        GRACE: demo.show(
            stream, folders[GRACE], functools.partial(run_lifelong, eval_every=25), clear=clear,
            how=f"Now {len(requests)} facts, one after the other, and none is taken back:",
        )
    }  # fmt: skip
    console.print()
    console.rule("CoachHook: updates behind hook layers", align="left")
    summaries[COACHHOOK] = demo.show(
        batches, folders[COACHHOOK], run_consecutive,
        prepare=functools.partial(provide_moments, console, hparams=batches),
        how=f"Now the same {len(requests)} facts, in batches of {batches.batch_size}, and none is taken back:",
    )  # fmt: skip
    console.print()
    console.rule("Side by side", align="left")
    comparison_table(console, summaries, f"The same {len(requests)} facts, each method from the unedited model:")
    console.print(
        f"\nResults: {folders[GRACE]}/ and {folders[COACHHOOK]}/ "
        "(summary.json, journal.jsonl, metrics.jsonl, config.yaml)\n"
        f"A page with plots of both: sh run.sh report {folders[GRACE]} {folders[COACHHOOK]}",
        highlight=False, markup=False,
    )  # fmt: skip
    return summaries


@dataclasses.dataclass(frozen=True)
class _Demo:
    """Shows one method after the other on the same facts."""

    console: Console
    requests: list[EditRequest]

    def show(
        self,
        hparams: Any,
        folder: Path,
        loop: Callable[..., RunResult],
        *,
        how: str,
        prepare: Callable[[Any, Any], None] | None = None,
        clear: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Edit one fact the way an EasyEdit script does, then all of them; print what changed.

        Args:
            hparams: the method's hyperparameters.
            folder: the run's.
            loop: the loop that edits all of them.
            how: says how.
            prepare: what the method needs before, of the unedited model and its tokenizer.
            clear: makes room for the run, once its first edit has worked.

        Returns:
            What the run's ``summary.json`` holds.
        """
        self.console.print("Loading the unedited model through EasyEdit's BaseEditor ...")
        with _quiet_easyedit():
            # EasyEdit sets its own batch size in the hyperparameters that it is given.
            editor = bridge.base_editor().from_hparams(dataclasses.replace(hparams))
        model, tokenizer = editor.model, editor.tok
        if prepare is not None:
            prepare(model, tokenizer)
        shown = self.requests[:_SHOWN]
        before = answers(model, tokenizer, shown)
        _edit_once(self.console, editor, self.requests[0])
        if clear is not None:
            clear()
        self.console.print(f"\n{how}")
        with edit_progress(self.console, len(self.requests)) as progress:
            result = loop(
                model, tokenizer, self.requests, hparams, out=folder, progress=progress, data_name=_DATA_NAME
            )  # fmt: skip
        show_answers(self.console, shown, before, answers(result.edited_model, tokenizer, shown))
        return result.summary


def _edit_once(console: Console, editor: Any, request: EditRequest) -> None:
    """Edit one fact the way an EasyEdit script does; EasyEdit takes the edit back after scoring it."""
    with _quiet_easyedit():
        metrics, _, _ = editor.edit(
            prompts=[request.prompt], target_new=[request.target_new], ground_truth=[request.ground_truth or ""],
            subject=[request.subject or ""], keep_original_weight=True, verbose=False,
        )  # fmt: skip
    pre, post = (metrics[0][phase]["rewrite_acc"][0] for phase in ("pre", "post"))
    console.print(
        f"BaseEditor.edit: {request.prompt!r} -> {request.target_new!r}: rewrite accuracy {pre:.2f} before, "
        f"{post:.2f} after the edit",
        highlight=False, markup=False,
    )  # fmt: skip


def _check_previous(folder: Path) -> None:
    """Check that what the folder holds, if anything, is an earlier demo's.

    Raises:
        RunError: it isn't.
    """
    config = folder / CONFIG
    written = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None
    data = written.get("data") if isinstance(written, dict) else None
    if data == _DATA_NAME or (isinstance(data, dict) and data.get("name") == _DATA_NAME):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: holds something that isn't a demo's. Choose another folder with --out.")


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet_easyedit() -> Iterator[None]:
    """Keep EasyEdit's own prints and log lines out of the demo; its ``logs`` folder stays its own."""
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
