"""The pages that tell people what a folder on the Hub, or an exported checkpoint, is (``README.md``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
MARK = "<!-- written by easyedit_lifelong -->"
"""Marks a page that this package wrote and may overwrite."""

_EXAMPLES = 5
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST = 200


def edits_card(index: Mapping[str, Any], repo_id: str) -> str:
    """Return the page of saved edits; no more than five of them stand on it.

    Args:
        index: of the folder.
        repo_id: where they will be.
    """
    model, parts = index["model"]["name"], index["parts"]
    edits = [edit for part in parts for edit in part["edits"]]
    rows = "\n".join(f"| {_cell(edit['prompt'])} | {_cell(edit['target_new'])} |" for edit in edits[:_EXAMPLES])
    more = f"\n\n{len(edits) - _EXAMPLES} more are in `edits.json`.\n" if len(edits) > _EXAMPLES else "\n"
    local = "" if _is_hub_name(model) else "  # the model that they were made on"
    return f"""{_front_matter(model, [part["method"] for part in parts])}
{MARK}

# Edits of {called(model)}

{_amounts(_counts(parts))}, made with easyedit_lifelong. These are edits alone, not a model: they go
onto `{called(model)}`, with the weights that they were made on, and come off it again.

```python
from easyedit_lifelong import load_edits, load_model

model, tokenizer = load_model("{called(model)}"){local}
rollback = load_edits(model, "hub:{repo_id}", tokenizer)
```

or `easyedit-lifelong generate --edits hub:{repo_id} --prompt "..."`.

| prompt | edited to |
|---|---|
{rows}{more}"""


def exported_card(model: str, counts: Mapping[str, int], lost: Sequence[str]) -> str:
    """Return the page of a checkpoint that edits have been put into.

    Args:
        model: the base model's name.
        counts: how many edits, by method.
        lost: what the edited model did that the checkpoint can't.
    """
    losses = "".join(f"\nLost: {one}\n" for one in lost) or "\nIt answers as the edited model did.\n"
    return f"""{_front_matter(model, counts)}
{MARK}

# {called(model)}, edited

The weights of `{called(model)}` with {_amounts(counts)} in them, written by easyedit_lifelong. It is a plain
checkpoint: transformers loads it, and no other package is needed.
{losses}"""


def called(model: str) -> str:
    """Return a model's name; of a folder its last part alone, for the others are nobody's concern."""
    name = model if _is_hub_name(model) else re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    return re.sub(r"[`\"\n]", "", name)


def _counts(parts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part["method"]] = counts.get(part["method"], 0) + len(part["edits"])
    return counts


def _amounts(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{n} edit{'s' if n != 1 else ''} by {method}" for method, n in counts.items())


def _front_matter(model: str, methods: Any) -> str:
    tags = ["knowledge-editing", "easyedit-lifelong", *dict.fromkeys(method.lower() for method in methods)]
    values = {**({"base_model": model} if _is_hub_name(model) else {}), "tags": tags}
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def _is_hub_name(model: str) -> bool:
    """Whether a model's name is one that others can look up, rather than a folder of this machine."""
    return _HUB_NAME.fullmatch(model) is not None and not Path(model).exists()


def _cell(text: str) -> str:
    """Return a text as a table's cell takes it."""
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", line)
