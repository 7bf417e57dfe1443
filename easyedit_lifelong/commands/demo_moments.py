"""The second moments that CoachHook needs, provided before the demo edits, where somebody can watch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.reporting.progress import count_progress


def provide_moments(console: Console, model: Any, tokenizer: Any, *, hparams: CoachHookHyperParams) -> None:
    """Collect the second moments that CoachHook's hyperparameters name, unless they are stored already.

    Args:
        console: where to say what happens.
        model: the unedited model.
        tokenizer: its tokenizer.
        hparams: CoachHook's hyperparameters.

    Raises:
        CovarianceError: what is stored can't be used.
    """
    own = find_corpus(hparams.mom2_dataset).label == "self-sampled"
    text = "text that the model writes itself" if own else hparams.mom2_dataset
    amount = f"{hparams.mom2_n_tokens:,} tokens" if hparams.mom2_n_tokens else f"{hparams.mom2_n_samples:,} documents"
    layers = ", ".join(map(str, hparams.edited_layers))
    console.print(
        f"CoachHook needs the second moments of the keys of layers {layers}: what an edit should leave alone. "
        f"They are taken over {amount} of {text}, once.",
        highlight=False, markup=False,
    )  # fmt: skip
    heard = False
    began = time.monotonic()
    with count_progress(console, "collecting") as show:

        def progress(done: int, total: int) -> None:
            nonlocal heard
            heard = True
            show(done, total)

        moments = second_moments(model, tokenizer, hparams, progress)
    folder = Path(next(iter(moments.values())).source).parent
    said = (
        f"Collected in {time.monotonic() - began:.0f} s and stored in"
        if heard
        else "Found, stored by an earlier run, in"
    )
    console.print(f"{said} {folder}", highlight=False, markup=False, soft_wrap=True)
