"""Embed prompts as vectors: by the model's own states, or by a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.errors import EditError, HyperParameterError, ModelError
from easyedit_lifelong.methods.retrieval.config import RetrievalHyperParams
from easyedit_lifelong.methods.shared.sample_sentences import sample_sentences
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.context_attachment import inner_model
from easyedit_lifelong.models.encoding import encode_text, row_batches
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.overrides import without_hooks
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.wrappers import unwrap_model

_BATCH_TOKENS = 2048
_SMALLEST_SPREAD = 1e-3
"""The smallest standard deviation that a component is divided by, as a share of the largest one."""


class Embedder(Protocol):
    """Embeds prompts."""

    def embed(self, prompts: Sequence[list[int]]) -> Tensor:
        """Return a vector for each prompt, given its token ids; shape ``(prompts, width)``, float32."""


class KeySpace(Protocol):
    """A space in which embeddings are compared."""

    def unit(self, embeddings: Tensor) -> Tensor:
        """Return a vector of unit length for each embedding, shape ``(embeddings, …)``."""


class StateEmbedder:
    """Embeds a prompt as the mean input of one block over its tokens.

    The first token is left out if there are others: its state hardly depends on the text and is much larger than the
    others (an attention sink).

    Args:
        model: the model. Hooks do not run in its passes, so edits that are made with hooks change nothing.
        layer: the number of the block.

    Raises:
        ModelError: the model has no such block.
    """

    def __init__(self, model: Any, layer: int) -> None:
        self._model = unwrap_model(model)
        anatomy = anatomy_of(self._model)
        if anatomy is None or layer >= len(anatomy.blocks):
            last = "no blocks are found" if anatomy is None else f"the last one is {len(anatomy.blocks) - 1}"
            raise ModelError(f"embedding_layer: {type(self._model).__name__} has no block {layer}; {last}")
        self._block = anatomy.blocks[layer]

    def embed(self, prompts: Sequence[list[int]]) -> Tensor:
        """Return a vector for each prompt, given its token ids; shape ``(prompts, width)``, float32."""
        with without_hooks(inner_model(self._model)), evaluating(self._model):
            states = inputs_at(Runner(self._model, None), self._block, list(prompts))
        return torch.stack([(row[1:] if len(row) > 1 else row).float().mean(dim=0) for row in states])


class SentenceEmbedder:
    """Embeds a prompt with a sentence encoder: the mean of its token states.

    Args:
        name: folder or Hub name of the encoder.
        tokenizer: the tokenizer of the edited model, which turns token ids into text.
        device: the device on which the encoder runs.

    Raises:
        HyperParameterError: the encoder cannot be loaded, or does not embed texts.
        EditError: there is no tokenizer.
    """

    def __init__(self, name: str, tokenizer: Any, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        if tokenizer is None:
            raise EditError(
                f"the edits are found with the sentence encoder {name!r}, which reads text: pass the model's "
                "tokenizer, as in load_edits(model, folder, tokenizer)"
            )
        try:
            # The user, or an edits folder, names the encoder: its weights are data, and code in its repository is not
            # run. Without trust_remote_code, transformers would ask at the terminal whether to run it.
            encoder = AutoModel.from_pretrained(name, trust_remote_code=False)  # nosec B615 # see above
            self._encoder = encoder.to(device).eval()
            # With padding on the left, the positions of a text would depend on its batch.
            self._encoder_tokenizer = AutoTokenizer.from_pretrained(  # nosec B615 # see above
                name, padding_side="right", trust_remote_code=False
            )
            self._embed_texts(["text"])
        except Exception as error:  # what transformers raises for an unusable encoder has no common class
            first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise HyperParameterError(f"sentence_encoder: {name!r} cannot be used: {first_line}") from error
        self._tokenizer = tokenizer

    def embed(self, prompts: Sequence[list[int]]) -> Tensor:
        """Return a vector for each prompt, given its token ids; shape ``(prompts, width)``, float32."""
        vectors: dict[tuple[int, ...], Tensor] = {}
        for batch in row_batches([list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))], _BATCH_TOKENS):
            texts = [self._tokenizer.decode(prompt, skip_special_tokens=True) for prompt in batch]
            vectors |= zip(map(tuple, batch), self._embed_texts(texts), strict=True)
        return torch.stack([vectors[tuple(prompt)] for prompt in prompts])

    @torch.no_grad()
    def _embed_texts(self, texts: list[str]) -> Tensor:
        """Return the mean token state of each text, shape ``(texts, width)``, float32."""
        encoded = self._encoder_tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        encoded = encoded.to(self._encoder.device)
        states: Tensor = self._encoder(**encoded).last_hidden_state.float()
        weights = encoded["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def embedder_for(model: Any, tokenizer: Any, hparams: RetrievalHyperParams) -> Embedder:
    """Return the embedder that hyperparameters name.

    Raises:
        ModelError: the model has no such block.
        HyperParameterError: the sentence encoder cannot be used.
        EditError: a sentence encoder needs the model's tokenizer, and there is none.
    """
    if hparams.sentence_encoder is None:
        return StateEmbedder(model, hparams.embedding_layer)
    device = unwrap_model(model).get_input_embeddings().weight.device
    return SentenceEmbedder(hparams.sentence_encoder, tokenizer, device)


@dataclass(frozen=True)
class Standardisation:
    """Mean μ and spread s of the embeddings of sentences that no edit is about.

    States of a model have a large common part, and few components with most of the variance. Without both, cosines tell
    texts apart.

    Attributes:
        mean: μ, shape ``(width,)``, float32.
        spread: s, the standard deviation of each component, shape ``(width,)``, float32.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def measured(cls, embedder: Embedder, tokenizer: Any) -> Standardisation:
        """Return μ and s over the sample sentences of this package."""
        embeddings = embedder.embed([encode_text(tokenizer, text) for text in sample_sentences().texts])
        spread = embeddings.std(dim=0)
        return cls(embeddings.mean(dim=0), spread.clamp(min=_SMALLEST_SPREAD * float(spread.max())))

    def unit(self, embeddings: Tensor) -> Tensor:
        """Return (e - μ) / s for each embedding e, scaled to unit length; shape ``(embeddings, width)``."""
        mean, spread = self.mean.to(embeddings.device), self.spread.to(embeddings.device)
        return F.normalize((embeddings - mean) / spread, dim=1)
