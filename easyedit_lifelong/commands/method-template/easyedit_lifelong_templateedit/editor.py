"""The edits of Template-Edit on a model: what an edit stores, and what it does in a forward pass."""

from __future__ import annotations

import copy as copies
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from easyedit_lifelong import (
    DataError,
    EditError,
    EditRecord,
    EditRequest,
    ModelError,
    Rollback,
    SeparateEdit,
    SeparateEditor,
    internal_pass,
)

from .config import TemplateEditHyperParams


class TemplateEditEditor(SeparateEditor):
    """A model's edits. Each stores a key, the first token of its target, the strength and the tolerance.

    The key is the input of the output head (the language-model head) at the last token of the edit's prompt.
    """

    hparams_class = TemplateEditHyperParams
    columns: ClassVar[Mapping[str, str]] = {"strength": "strength", "tolerance": "tolerance"}

    def attach(self, model: Any) -> Callable[[], None]:
        """Attach the forward hook to the output head of a model; return a function that removes it."""
        self.applied: dict[int, int | str] = {}
        return output_head(model).register_forward_hook(self.apply_edits).remove

    def edits_changed(self) -> None:
        """Stack the keys of the edits, shape (edits, width), and compute the distance within which each edit acts."""
        if self.edits:
            self.keys = torch.stack([edit.tensors["key"] for edit in self.edits])
            self.radii = self.keys.norm(dim=-1) * torch.tensor([edit.data["tolerance"] for edit in self.edits])

    def apply_edits(self, head: Any, args: tuple[Tensor], logits: Tensor) -> Tensor:
        """Add to the logits at tokens whose hidden state is near a key. Replace this by what your method does.

        A hidden state depends on the text so far, and not only on the tokens of one pass. So an edit also acts if a KV
        cache holds a part of its prompt. Of several edits whose keys are near enough, the latest acts.

        Args:
            head: the output head.
            args: its positional inputs: the hidden states, shape (rows, tokens, width), of the pass's tokens or only
                of the last one.
            logits: its output, shape (rows, tokens, vocabulary).

        Returns:
            The logits.
        """
        self.applied = {}
        hidden = args[0].detach().float()
        # The default mode computes distances from dot products: too coarse for vectors near each other.
        distances = torch.cdist(hidden, self.keys.to(hidden.device), compute_mode="donot_use_mm_for_euclid_dist")
        near = (distances <= self.radii.to(hidden.device)).nonzero().tolist()
        latest = {(row, token): self.edits[number] for row, token, number in near}
        for (row, token), edit in latest.items():
            logits[row, token, edit.data["target_id"]] += edit.data["strength"]
            self.applied[token - hidden.shape[1]] = edit.record.case_id
        return logits


def output_head(model: Any) -> Any:
    """Return the language-model head of a model.

    Raises:
        ModelError: the model is not a decoder with such a head.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None or model.config.is_encoder_decoder:
        raise ModelError(f"Template-Edit edits causal language models only; a {type(model).__name__} is not one.")
    return head


def check_tokens(model: Any, tok: Any, request: EditRequest) -> None:
    """Check that a model embeds all tokens of a request: a tokenizer can have more tokens than the model.

    Raises:
        DataError: the model does not embed a token.
    """
    known = model.get_input_embeddings().weight.shape[0]
    for number in tok(f"{request.prompt} {request.target_new}")["input_ids"]:
        if number >= known:
            token = tok.convert_ids_to_tokens(number)
            raise DataError(
                f"case {request.case_id!r}: the model does not embed the token {token!r} (number {number}). Call "
                "model.resize_token_embeddings(len(tokenizer))."
            )


def prompt_key(model: Any, tok: Any, request: EditRequest) -> Tensor:
    """Return the key of a request, shape (width,): the input of the output head at the last token of the prompt.

    Raises:
        DataError: the model does not take so many tokens.
        EditError: the key has NaN or infinity.
        ModelError: the model has no output head.
    """
    ids = tok(request.prompt, return_tensors="pt")["input_ids"].to(model.device)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and ids.shape[1] > limit:
        raise DataError(f"case {request.case_id!r}: its prompt has {ids.shape[1]} tokens; the model takes {limit}.")
    inputs: list[Tensor] = []
    hook = output_head(model).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with hook, internal_pass(model), torch.no_grad():
        model(input_ids=ids)
    key = inputs[0][0, -1].float().cpu()
    if not key.isfinite().all():
        raise EditError(f"case {request.case_id!r}: the model's hidden state at the end of its prompt is not finite.")
    return key


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
        EditError: a hidden state is not finite.
        ModelError: the model is not a causal language model.
    """
    edits = []
    for number, request in enumerate(requests):
        if not isinstance(request, EditRequest):
            request = EditRequest.from_dict(request, f"request {number}", case_id=number)
        check_tokens(model, tok, request)
        data = {
            "target_id": tok(" " + request.target_new, add_special_tokens=False)["input_ids"][0],
            "strength": hparams.strength,
            "tolerance": hparams.tolerance,
        }
        edits.append(SeparateEdit(EditRecord.of(request), data, {"key": prompt_key(model, tok, request)}))
    model = copies.deepcopy(model) if copy else model
    return model, Rollback(TemplateEditEditor.add(model, hparams, edits), on_items=keep_original_weight)
