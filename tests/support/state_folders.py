"""The states of runs, written and read as the loops do, for tests without a loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong import get_plugins
from easyedit_lifelong.edits.edits_folder import INDEX, read_index, write_index
from easyedit_lifelong.methods.edit_stores import StateKeeper


def state_keeper(method: str) -> StateKeeper:
    state = get_plugins().methods.get(method).state
    assert state is not None
    return state


def save_state(model: Any, folder: Path, method: str = "GRACE") -> None:
    state_keeper(method).save(model, folder)


def load_state(
    model: Any, tokenizer: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
) -> None:
    state_keeper(hparams.alg_name).load(model, tokenizer, hparams, folder, case_ids)


def change_index(folder: Path, *, resign: bool = True, **values: Any) -> None:
    """Change values of an index (None deletes one), and its digest too unless ``resign`` is false."""
    if not resign:
        index = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps({**index, **values}))
        return
    index = {**read_index(folder), **values}
    version = index.pop("format_version")
    del index["format"]
    write_index(folder, version, {name: value for name, value in index.items() if value is not None})


def change_hparams(folder: Path, **values: Any) -> None:
    """Change hyperparameters in a state's index."""
    (part,) = read_index(folder)["parts"]
    change_index(folder, parts=[{**part, "hparams": {**part["hparams"], **values}}])
