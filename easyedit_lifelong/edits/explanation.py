"""Why an edited model says what it says: which edit answers a prompt, at which token and layer, and by how much."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.carried import looking
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.modes import evaluating
from easyedit_lifelong.models.pairs import encoder_for
from easyedit_lifelong.models.runner import Runner


@dataclass(frozen=True)
class KeyAtToken:
    """The key nearest to a token's query.

    Attributes:
        token: the token's text.
        key: which key.
        case_id: the case that it answers for.
        distance: from the query to it, in units of the distance function.
        radius: its deferral radius.
        within: whether it would answer here.
        looked_up: whether the codebook is asked here: at the prompt's last token.
        replaced: whether a value has taken the place of the layer's output here.
    """

    token: str
    key: int
    case_id: int | str
    distance: float
    radius: float
    within: bool
    looked_up: bool
    replaced: bool

    @property
    def fired(self) -> bool:
        """Whether the codebook was asked here, and the key answered."""
        return self.looked_up and self.within


@dataclass(frozen=True)
class GraceLayer:
    """What a codebook did: its layer's path, and the key nearest to every token."""

    layer: str
    tokens: list[KeyAtToken]

    @property
    def answered_by(self) -> int | str | None:
        """The case whose value the layer returned; None if the prompt was deferred to the model."""
        return next((token.case_id for token in self.tokens if token.fired), None)


@dataclass(frozen=True)
class ScoreAtToken:
    """What a hook decided by.

    Attributes:
        token: the token's text.
        score: its z-score, or the weighed one with ``scope_score: weighed``; NaN where there is none: in prompts too
            short, and everywhere with ``wohk``.
        acts: whether the edited weights were used here.
    """

    token: str
    score: float
    acts: bool


@dataclass(frozen=True)
class CoachHookLayer:
    """What a hook layer did.

    Attributes:
        layer: path of its projection.
        alpha: the score from which on it acts, give or take rounding; None with ``wohk``: there are no hooks.
        tokens: every token's score.
    """

    layer: str
    alpha: float | None
    tokens: list[ScoreAtToken]


@dataclass(frozen=True)
class Explanation:
    """Which edits a prompt met. Printed, it is a table.

    Attributes:
        prompt: what was asked.
        answer: what was said after it, teacher-forced.
        grace: of each layer that carries a codebook.
        coachhook: of each edited projection.
    """

    prompt: str
    answer: str | None
    grace: list[GraceLayer]
    coachhook: list[CoachHookLayer]

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name; a score that isn't there is NaN."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a table: a block for each layer, a line for each token."""
        lines = []
        for layer in self.grace:
            lines.append(f"GRACE {layer.layer}: {_deferred_or(layer.answered_by)}")
            for token in layer.tokens:
                marks = "  looked up" * token.looked_up + "  replaced" * token.replaced
                inside = "<=" if token.within else ">"
                lines.append(
                    f"  {token.token!r:16} {token.distance:.4g} {inside} {token.radius:.4g} of case "
                    f"{token.case_id!r}{marks}"
                )
        for hook in self.coachhook:
            alpha = "in the weights, everywhere" if hook.alpha is None else f"alpha {hook.alpha:.4g}"
            lines.append(f"CoachHook {hook.layer}: {alpha}")
            lines += [f"  {token.token!r:16} {token.score:.4g}{'  acts' * token.acts}" for token in hook.tokens]
        return "\n".join(lines)


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
    heard: dict[str, tuple[Tensor, ...]] = {}

    def hear(path: str, *what: Tensor) -> None:
        heard[path] = what

    hooks = hooked.hooks if hooked is not None and not hooked.hparams.wohk else {}
    with evaluating(model), looking(model), ExitStack() as stack:
        for path, editor in editors.items():
            stack.enter_context(editor.adaptor.watching(functools.partial(hear, f"GRACE {path}")))
        for path, hook in hooks.items():
            stack.enter_context(hook.watching(functools.partial(hear, f"CoachHook {path}")))
        asked.run()
    grace = [
        _grace_layer(path, editor, asked.texts_at(editor.adaptor.layer), *heard[f"GRACE {path}"])
        for path, editor in editors.items()
    ]
    return Explanation(prompt, answer, grace, _coachhook_layers(hooked, asked.texts, heard))


@dataclass(frozen=True)
class _Asked:
    """A pass of a model over a prompt, and the texts of the tokens that it reads.

    Attributes:
        run: makes the pass.
        texts: of the tokens.
        decoder: an encoder-decoder's decoder, if the model has one.
        decoder_texts: of the tokens that it reads.
    """

    run: Callable[[], object]
    texts: list[str]
    decoder: nn.Module | None = None
    decoder_texts: Sequence[str] = ()

    def texts_at(self, layer: nn.Module) -> Sequence[str]:
        """Return the texts of the tokens at a layer."""
        inside = self.decoder is not None and any(module is layer for module in self.decoder.modules())
        return self.decoder_texts if inside else self.texts


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
        return _Asked(lambda: runner.call(ids, mask, [length]), texts)
    if kind is Kind.CLASSIFIER:
        return _Asked(lambda: model(input_ids=ids, attention_mask=mask), texts)
    labels = torch.tensor([[0] if pair is None else pair.target], device=runner.device)
    begun = model.prepare_decoder_input_ids_from_labels(labels=labels)
    run = functools.partial(model, input_ids=ids, attention_mask=mask, decoder_input_ids=begun, use_cache=False)
    return _Asked(run, texts, model.get_decoder(), [tokenizer.decode([token]) for token in begun[0].tolist()])


def _whole_row(model: Any, tokenizer: Any, prompt: str, pair: EncodedPair | None) -> list[int]:
    """Return the tokens that a model reads in one row."""
    if pair is not None:
        return pair.prompt if pair.apart else pair.tokens
    if kind_of(model) is Kind.CLASSIFIER:  # which cuts a long text off
        return encoder_for(model, tokenizer)(prompt, "0").prompt
    return list(tokenizer(prompt)["input_ids"])


def _grace_layer(
    path: str, editor: GraceEditor, texts: Sequence[str], inputs: Tensor, ends: Tensor, fired: Tensor, columns: Tensor
) -> GraceLayer:
    codebook = editor.codebook
    assert codebook is not None
    end, within = int(ends[0]), codebook.lookup(inputs[0]) >= 0
    within[end] = fired[0] >= 0  # as the pass itself had it
    cases, radii = editor.edits_of_keys(), codebook.radii.tolist()
    tokens = []
    for column, text in enumerate(texts):
        match = codebook.nearest(inputs[0, column])
        key = int(fired[0]) if column == end and fired[0] >= 0 else match.index
        tokens.append(KeyAtToken(
            text, key, cases[key].case_id, match.distance, radii[key], bool(within[column]), column == end,
            bool(columns[0, column]),
        ))  # fmt: skip
    return GraceLayer(path, tokens)


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
            scores, acts = (tensor[0].tolist() for tensor in heard[f"CoachHook {path}"])
        tokens = [ScoreAtToken(*found) for found in zip(texts, scores, acts, strict=True)]
        layers.append(CoachHookLayer(path, alpha, tokens))
    return layers


def _deferred_or(case_id: int | str | None) -> str:
    return "deferred to the model" if case_id is None else f"answered by case {case_id!r}"
