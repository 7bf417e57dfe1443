"""Small encoder-decoders and a classifier, trained for a few seconds so that edits have knowledge to preserve."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from easyedit_lifelong import GraceHyperParams
from tests.support.tiny_models import VOCABULARY, build_tokenizer

_OBJECTS = ("city", "moon", "cheese", "king", "river", "piano", "violin", "bird")
_QUESTIONS = ("where is the old", "who wrote the", "what is")  # the tokenizer doesn't know "what"
_ANSWERS = (
    "Paris",
    "Rome",
    "Berlin",
    "London",
    "blue sea",
    "green",
    "Peru",
    "far away",
    "Hamlet",
    "winter bird",
    "song",
)

QUESTIONS = [f"{question} {thing}" for question, thing in itertools.product(_QUESTIONS, _OBJECTS)]
"""The questions that the small encoder-decoders are trained to answer."""


def answer_to(question: str) -> str:
    """Return the answer that they are trained to give."""
    return _ANSWERS[(7 * QUESTIONS.index(question)) % len(_ANSWERS)]


LABELS = ("places", "people", "nature")
_TOPICS = (
    ("Paris", "Rome", "Berlin", "London", "city"),
    ("king", "Shakespeare", "wrote", "Hamlet", "spoken"),
    ("sea", "mountain", "snow", "moon", "bird"),
)


@functools.cache
def texts() -> list[tuple[str, str]]:
    """Return the texts that the small classifier is trained on, with their labels."""
    generator = torch.Generator().manual_seed(3)

    def sample(words: tuple[str, ...], count: int) -> list[str]:
        return [words[int(n)] for n in torch.randint(len(words), (count,), generator=generator)]

    labelled = []
    for number in range(90):
        topic = number % len(LABELS)
        words = sample(_TOPICS[topic], 3) + sample(("the", "of", "is", "and", "in", "old"), 2 + number % 4)
        order = torch.randperm(len(words), generator=generator).tolist()
        labelled.append((" ".join(words[n] for n in order), LABELS[topic]))
    return list(dict.fromkeys(labelled))


def tokenizer_like_t5() -> PreTrainedTokenizerFast:
    """Return a tokenizer that ends every text with ``</s>`` and pads on the right."""
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return tokenizer


def tokenizer_like_bert() -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts every text between two special tokens and pads on the right."""
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


@functools.cache
def _trained_state(kind: str) -> dict[str, torch.Tensor]:
    model = untrained(kind).train()
    tokenizer = tokenizer_like_bert() if kind == "bert" else tokenizer_like_t5()
    if kind == "bert":
        inputs = tokenizer([text for text, _ in texts()], return_tensors="pt", padding=True)
        labels = torch.tensor([LABELS.index(label) for _, label in texts()])
    else:
        inputs = tokenizer(QUESTIONS, return_tensors="pt", padding=True)
        labels = tokenizer([answer_to(q) for q in QUESTIONS], return_tensors="pt", padding=True)["input_ids"]
        labels = labels.masked_fill(labels == 0, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60 if kind == "bert" else 150):
        optimizer.zero_grad()
        loss = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
    return model.state_dict()


def untrained(kind: str) -> Any:
    """Return the ``t5``, ``bart`` or ``bert`` with random weights, the same each time."""
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "bert":
        labels = dict(enumerate(LABELS))
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=24,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                id2label=labels,
                label2id={name: number for number, name in labels.items()},
                **special,
            )
        )
    if kind == "t5":
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=VOCABULARY,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=3,
                num_heads=4,
                dropout_rate=0.0,
                decoder_start_token_id=0,
                **special,
            )
        )
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=VOCABULARY,
            d_model=32,
            encoder_layers=3,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=24,
            dropout=0.0,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            **special,
        )
    )


@dataclass(frozen=True)
class Architecture:
    """A small trained model and the layer that GRACE edits.

    Attributes:
        kind: ``t5``, ``bart`` or ``bert``.
        layer: the edited layer.
        query_token: the hyperparameter of GRACE.
        eps: the hyperparameter of GRACE; small enough that the model's trained answers are outside every radius.
        requests: edits to answers that the model isn't trained to give.
        others: prompts that no request is about, with their trained answers.
    """

    kind: str
    layer: str
    query_token: str = "prompt_last"
    eps: float = 1e-3

    def build(self) -> tuple[Any, PreTrainedTokenizerFast]:
        """Return the model, with the same weights each time, and its tokenizer."""
        model = untrained(self.kind)
        model.load_state_dict(_trained_state(self.kind))
        return model.eval(), tokenizer_like_bert() if self.kind == "bert" else tokenizer_like_t5()

    def hparams(self, **options: Any) -> GraceHyperParams:
        """Return hyperparameters that edit this layer."""
        options = {"eps": self.eps, "query_token": self.query_token, **options}
        return GraceHyperParams(model_name=self.kind, inner_params=[self.layer], **options)

    @property
    def requests(self) -> list[dict[str, Any]]:
        if self.kind == "bert":
            chosen = [texts()[n] for n in (0, 1, 5, 8)]
            pairs = [(text, LABELS[(LABELS.index(label) + 1) % len(LABELS)]) for text, label in chosen]
        else:
            chosen = [QUESTIONS[n] for n in (0, 5, 11, 17)]
            pairs = [(question, answer_to(QUESTIONS[(QUESTIONS.index(question) + 3) % 24])) for question in chosen]
        return [{"case_id": n, "prompt": prompt, "target_new": answer} for n, (prompt, answer) in enumerate(pairs)]

    @property
    def others(self) -> list[tuple[str, str]]:
        edited = {request["prompt"] for request in self.requests}
        known = texts()[:20] if self.kind == "bert" else [(question, answer_to(question)) for question in QUESTIONS]
        return [(prompt, answer) for prompt, answer in known if prompt not in edited]


ARCHITECTURES = {
    "t5-encoder": Architecture("t5", "encoder.block[1].layer[1].DenseReluDense.wo.weight"),
    "t5-decoder": Architecture("t5", "decoder.block[1].layer[2].DenseReluDense.wo.weight"),
    "bart-encoder": Architecture("bart", "model.encoder.layers[1].fc2.weight"),
    "bart-decoder": Architecture("bart", "model.decoder.layers[1].fc2.weight"),
    "bert-last": Architecture("bert", "bert.encoder.layer[0].output.dense.weight"),
    "bert-first": Architecture("bert", "bert.encoder.layer[1].output.dense.weight", "first"),
}
"""Architectures by the name of the model and of the edited part."""
