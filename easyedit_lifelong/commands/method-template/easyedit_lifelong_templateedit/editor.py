"""The edits of Template-Edit on a model: what an edit stores, and what it does in a forward pass."""

from __future__ import annotations

import copy as copies
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from easyedit_lifelong import EditRecord, EditRequest, Rollback, SeparateEdit, SeparateEditor

from .config import TemplateEditHyperParams


class TemplateEditEditor(SeparateEditor):
    """A model's edits. Each stores the tokens of its prompt, the first token of its target, and the strength."""

    hparams_class = TemplateEditHyperParams
    columns: ClassVar[Mapping[str, str]] = {"strength": "strength"}

    def attach(self, model: Any) -> Callable[[], None]:
        """Attach the forward hook to a model; return a function that removes it."""
        self.applied: dict[int, int | str] = {}
        return model.register_forward_hook(self.apply_edits, with_kwargs=True).remove

    def apply_edits(self, model: Any, args: Any, inputs: Mapping[str, Any], output: Any) -> Any:
        """Add to the logits wherever the text so far ends in an edited prompt. Replace this by what your method does.

        Args:
            model: the model.
            args: its positional inputs.
            inputs: its other inputs; ``input_ids`` has the shape (rows, tokens).
            output: its output; ``logits`` has the shape (rows, tokens, vocabulary), or only the last token's.

        Returns:
            The output.
        """
        self.applied = {}
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            without_logits = len(ids) - output.logits.shape[1]
            for end in range(without_logits + 1, len(ids) + 1):
                for edit in self.edits:
                    prompt = edit.data["prompt_ids"]
                    if ids[:end][-len(prompt) :] == prompt:
                        output.logits[row, end - 1 - without_logits, edit.data["target_id"]] += edit.data["strength"]
                        self.applied[end - 1] = edit.record.case_id
        return output


def apply_templateedit_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[EditRequest | Mapping[str, Any]],
    hparams: TemplateEditHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[Any]]:
    """Edit a model. EasyEdit and the loops of easyedit_lifelong call this signature.

    Everything is computed before the model is changed, so an edit that fails leaves no trace.

    Args:
        model: the model.
        tok: its tokenizer.
        requests: the facts to edit.
        hparams: the hyperparameters.
        copy: edit a copy of the model.
        return_orig_weights: ignored; EasyEdit passes it.
        keep_original_weight: let EasyEdit roll the edits back after it scored them.
        **kwargs: ignored; EasyEdit passes more.

    Returns:
        The edited model, and a function that removes these edits.

    Raises:
        DataError: a request cannot be edited.
    """
    edits = []
    for number, request in enumerate(requests):
        if not isinstance(request, EditRequest):
            request = EditRequest.from_dict(request, f"request {number}", case_id=number)
        data = {
            "prompt_ids": tok(request.prompt)["input_ids"],
            "target_id": tok(" " + request.target_new, add_special_tokens=False)["input_ids"][0],
            "strength": hparams.strength,
        }
        edits.append(SeparateEdit(EditRecord.of(request), data))
    model = copies.deepcopy(model) if copy else model
    return model, Rollback(TemplateEditEditor.add(model, hparams, edits), on_items=keep_original_weight)
