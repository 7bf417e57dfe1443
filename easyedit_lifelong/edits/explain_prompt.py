"""Why an edited model says what it says: which edit answers a prompt, at which token and layer, and by how much."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.edits.explained import CoachHookLayer, Explanation, GraceLayer, KeyAtToken, ScoreAtToken
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.grace.codebook.decisions import Match
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.subject.subject_layer import LateAdaptor
from easyedit_lifelong.methods.shared.editors import internal_pass
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.modes import evaluating
from easyedit_lifelong.models.pairs import encoder_for
from easyedit_lifelong.models.runner import Runner


@torch.no_grad()
def explain(model: Any, tokenizer: Any, prompt: str, answer: str | None = None) -> Explanation:
    """Show which edits a prompt meets: one pass through the edited model, and what its layers decided in it.

    Args:
        model: a model that carries edits.
        tokenizer: its tokenizer.
        prompt: what to ask.
        answer: what is said after it, to see its tokens, too; the prompt still ends where it ends. (To a layer of a
            decoder, its tokens are the answer's.)

    Raises:
        EditError: the model carries no edits.
        DataError: the prompt has no tokens.
    """
    editors, hooked = GraceEditor.all_of(model), CoachHookEditor.of(model)
    if not editors and hooked is None:
        raise EditError("the model carries no edits")
    asked = _asked(model, tokenizer, prompt, answer)
    passes = {path: _Pass(editor, asked.end) for path, editor in editors.items()}
    heard: dict[str, tuple[Tensor, ...]] = {}

    def hear(path: str, *what: Tensor) -> None:
        heard[path] = what

    hooks = hooked.hooks if hooked is not None and not hooked.hparams.wohk else {}
    with evaluating(model), internal_pass(model), ExitStack() as stack:
        for passed in passes.values():
            stack.enter_context(passed.watching())
        for path, hook in hooks.items():
            stack.enter_context(hook.watching(functools.partial(hear, path)))
        asked.run()
    grace = [_grace_layer(path, editor, asked, passes[path]) for path, editor in editors.items()]
    return Explanation(prompt, answer, grace, _coachhook_layers(hooked, asked.texts, heard))


@dataclass(frozen=True)
class _Asked:
    """A pass of a model over a prompt, and the texts of the tokens that it reads.

    Attributes:
        run: makes the pass.
        texts: of the tokens.
        end: which token is the prompt's last.
        decoder: an encoder-decoder's decoder, if the model has one.
        decoder_texts: of the tokens that it reads.
    """

    run: Callable[[], object]
    texts: list[str]
    end: int = -1
    decoder: nn.Module | None = None
    decoder_texts: Sequence[str] = ()

    def texts_at(self, layer: nn.Module) -> Sequence[str]:
        """Return the texts of the tokens at a layer."""
        inside = self.decoder is not None and any(module is layer for module in self.decoder.modules())
        return self.decoder_texts if inside else self.texts


class _Pass:
    """What an editor's layers tell of the pass.

    Args:
        editor: the editor.
        end: which token is the prompt's last.

    Attributes:
        decided: of every token what the codebook would be asked with, whether it was, the key that answered, and
            whether a value was put in: see :data:`~easyedit_lifelong.methods.grace.layer.Watcher`.
        gate: what the gates are compared with, if there are any.
    """

    def __init__(self, editor: GraceEditor, end: int) -> None:
        self._editor, self._end = editor, end
        self.decided: tuple[Tensor, ...] = ()
        self.gate: Tensor | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Listen to the pass inside."""
        adaptor, codebook = self._editor.adaptor, self._editor.codebook
        with ExitStack() as stack:
            stack.enter_context(adaptor.watching(self._hear))
            if codebook is not None and codebook.gate_eps is not None:
                handle = adaptor.layer.register_forward_pre_hook(self._see, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _hear(self, *decided: Tensor) -> None:
        # What answers may be on another device than what finds.
        self.decided = tuple(tensor[0].to(decided[0].device) for tensor in decided)

    def _see(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.gate = (args[0] if args else kwargs["hidden_states"])[0, self._end]


def _asked(model: Any, tokenizer: Any, prompt: str, answer: str | None) -> _Asked:
    kind = kind_of(model)
    if kind is Kind.MODULE:
        raise EditError(f"{type(model).__name__} reads no text that could be explained")
    pair = encoder_for(model, tokenizer)(prompt, answer) if answer is not None else None
    tokens = _whole_row(model, tokenizer, prompt, pair)
    if not tokens:
        raise DataError(f"the prompt {prompt!r} has no tokens")
    texts = [tokenizer.decode([token]) for token in tokens]
    runner = Runner(model, tokenizer)
    ids = torch.tensor([tokens], device=runner.device)
    mask = torch.ones_like(ids)
    if kind is Kind.CAUSAL:
        length = len(tokens) if pair is None else len(pair.prompt)
        return _Asked(lambda: runner.call(ids, mask, [length]), texts, length - 1)
    if kind is Kind.CLASSIFIER:
        return _Asked(lambda: model(input_ids=ids, attention_mask=mask), texts)
    labels = torch.tensor([[0] if pair is None else pair.target], device=runner.device)
    begun = model.prepare_decoder_input_ids_from_labels(labels=labels)
    run = functools.partial(model, input_ids=ids, attention_mask=mask, decoder_input_ids=begun, use_cache=False)
    return _Asked(run, texts, -1, model.get_decoder(), [tokenizer.decode([token]) for token in begun[0].tolist()])


def _whole_row(model: Any, tokenizer: Any, prompt: str, pair: EncodedPair | None) -> list[int]:
    """Return the tokens that a model reads in one row."""
    if pair is not None:
        return pair.prompt if pair.apart else pair.tokens
    if kind_of(model) is Kind.CLASSIFIER:  # which cuts a long text off
        return encoder_for(model, tokenizer)(prompt, "0").prompt
    return list(tokenizer(prompt)["input_ids"])


def _grace_layer(path: str, editor: GraceEditor, asked: _Asked, passed: _Pass) -> GraceLayer:
    codebook, late = editor.codebook, isinstance(editor.adaptor, LateAdaptor)
    assert codebook is not None
    queries, looked_up, keys, replaced = passed.decided
    answers = replaced if late else torch.zeros_like(replaced)
    within = torch.where(looked_up, keys >= 0, codebook.lookup(queries) >= 0)  # where it was asked, as it said
    gates = None if passed.gate is None else codebook.gate_distances(passed.gate.to(queries.device))
    cases, radii = editor.edits_of_keys(), codebook.radii.tolist()
    tokens = []
    for column, text in enumerate(asked.texts_at(editor.adaptor.layer)):
        match, key = codebook.nearest(queries[column]), int(keys[column])
        query = queries[column : column + 1]
        if key >= 0 and key != match.index:
            match = Match(key, float(codebook.distances(query)[0, key]))
        if answers[column]:  # by a key that another token may have found
            within[column] = codebook.nearness(query)[0, key] <= 1
        tokens.append(KeyAtToken(
            text, match.index, cases[match.index].case_id, match.distance, radii[match.index], bool(within[column]),
            bool(looked_up[column]), bool(replaced[column]),
            float(gates[key]) if gates is not None and key >= 0 else None,
        ))  # fmt: skip
    answered_by = next((token.case_id for token in tokens if (token.replaced if late else token.fired)), None)
    return GraceLayer(path, tokens, answered_by, editor.adaptor.query_token, codebook.gate_eps)


def _coachhook_layers(
    editor: CoachHookEditor | None, texts: Sequence[str], heard: dict[str, tuple[Tensor, ...]]
) -> list[CoachHookLayer]:
    if editor is None:
        return []
    layers = []
    for path in editor.hooks:
        scores, acts, alpha = [float("nan")] * len(texts), [True] * len(texts), None
        if not editor.hparams.wohk:
            alpha = editor.alphas[path]
            scores, acts = (tensor[0].tolist() for tensor in heard[path])
        tokens = [ScoreAtToken(*found) for found in zip(texts, scores, acts, strict=True)]
        layers.append(CoachHookLayer(path, alpha, tokens))
    return layers
