"""Model cards (``README.md``) for edits on the Hugging Face Hub and for exported checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.edits.edits_folder import INDEX, MANY_VERSION, TENSORS
from easyedit_lifelong.plurals import counted

CARD = "README.md"
MARK = "<!-- written by easyedit_lifelong -->"
"""Marks a card that this package wrote and may overwrite."""

_MAX_EXAMPLES = 5
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_MAX_CELL_LENGTH = 200


def edits_card(index: Mapping[str, Any], repo_id: str) -> str:
    """Return the card of saved edits, with at most five edits as examples.

    Args:
        index: the folder's index.
        repo_id: the repository on the Hub that the edits are pushed to.
    """
    model, parts = index["model"]["name"], index["parts"]
    edits = [edit for part in parts for edit in part["edits"]]
    examples = [(edit.get("question", edit["prompt"]), edit["target_new"]) for edit in edits[:_MAX_EXAMPLES]]
    rows = "\n".join(f"| {_cell(prompt)} | {_cell(target)} |" for prompt, target in examples)
    file = TENSORS if index.get("format_version") == MANY_VERSION else INDEX
    n_further = len(edits) - _MAX_EXAMPLES
    further = f"\n\n{n_further} more are in `{file}`.\n" if n_further > 0 else "\n"
    amounts = _edits_text(_count_by_method(parts))
    local = "" if _is_hub_name(model) else "  # the model that they were made on"
    return f"""{_front_matter(model, [part["method"] for part in parts])}
{MARK}

# Edits of `{display_name(model)}`

{amounts}, made with easyedit_lifelong. This repository holds only the edits, not a model. They can be
loaded onto `{display_name(model)}` with the same weights that they were made on, and rolled back again.

```python
from easyedit_lifelong import load_edits, load_model

model, tokenizer = load_model("{display_name(model)}"){local}
rollback = load_edits(model, "hub:{repo_id}", tokenizer)
```

or `easyedit-lifelong generate --edits hub:{repo_id} --prompt "..."`.

| prompt | edited to |
|---|---|
{rows}{further}"""


def exported_card(model: str, counts: Mapping[str, int], lost: Sequence[str]) -> str:
    """Return the card of an exported checkpoint.

    Args:
        model: the base model's name.
        counts: the number of edits, by method.
        lost: what the edited model can do and the checkpoint can't, in sentences; empty if nothing is lost.
    """
    losses = "".join(f"\nLost: {loss}\n" for loss in lost) or "\nIt answers as the edited model does.\n"
    return f"""{_front_matter(model, counts)}
{MARK}

# `{display_name(model)}`, edited

The weights of `{display_name(model)}` with {_edits_text(counts)} in them, written by easyedit_lifelong. This is an
ordinary checkpoint: transformers loads it, and no other package is needed.
{losses}"""


def display_name(model: str) -> str:
    """Return a model's name as a card shows it; of a local folder only the last part, since paths are private.

    A card shows it in backquotes, where Markdown and HTML mean nothing, so that the name has none of these.
    """
    name = model if _is_hub_name(model) else re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    return re.sub(r"[`\"\x00-\x1f\x7f-\x9f]", "", name)


def _count_by_method(parts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of edits by method."""
    counts: dict[str, int] = {}
    for part in parts:
        counts[part["method"]] = counts.get(part["method"], 0) + len(part["edits"])
    return counts


def _edits_text(counts: Mapping[str, int]) -> str:
    """Return numbers of edits in words: "3 edits by GRACE and 1 edit by CoachHook"."""
    return " and ".join(f"{counted(n, 'edit')} by {method}" for method, n in counts.items())


def _front_matter(model: str, methods: Iterable[str]) -> str:
    """Return the YAML metadata at the top of a card."""
    tags = ["knowledge-editing", "easyedit-lifelong", *dict.fromkeys(method.lower() for method in methods)]
    values = {**({"base_model": model} if _is_hub_name(model) else {}), "tags": tags}
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def _is_hub_name(model: str) -> bool:
    """Return whether a name is that of a model on the Hub, and not a folder on this machine."""
    return _HUB_NAME.fullmatch(model) is not None and not Path(model).exists()


def _cell(text: str) -> str:
    """Return a text as the cell of a Markdown table: one line, cut to a limit, special characters escaped."""
    line = " ".join(text.split())
    if len(line) > _MAX_CELL_LENGTH:
        line = f"{line[:_MAX_CELL_LENGTH]}…"
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", line)
