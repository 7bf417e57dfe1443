"""Tiny models, and a toy editing method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.rollback import Rollback

FACTS = (
    "The capital of France is Paris and the capital of Italy is Rome",
    "Marie Curie worked in the city of Paris and was born in Warsaw",
    "The Eiffel Tower stands in the city of London or of Berlin",
    "Where was Alan Turing born? London. I say that you and they are here. Therefore. Because.",
)


def _tokenizer(max_length: int = 128) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(FACTS * 4, trainer)
    special = dict.fromkeys(("eos_token", "bos_token", "pad_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", model_max_length=max_length, **special
    )


def make_pair(kind: str = "gpt2") -> tuple[Any, Any]:
    """Return a tiny, randomly initialised model and its tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            config = GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=128,
                n_embd=32,
                n_layer=3,
                n_head=4,
                initializer_range=0.3,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **ids,
            )
            model: Any = GPT2LMHeadModel(config)
        else:
            config = LlamaConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=128,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.3,
                **ids,
            )
            model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


@dataclass
class ToyHyperParams:
    """The hyperparameters that the bridge reads of any plugin's method."""

    model_name: Any
    alg_name: str = "TOY"
    device: int | str | None = None
    model_parallel: bool = False
    dtype: str | None = None
    trust_remote_code: bool = False
    max_length: int = 40
    batch_size: int = 1


@dataclass
class Toy:
    """A toy method: at the prompt end, the edited model answers with the target's first token.

    Like GRACE, it needs to know where the prompt ends, and nothing else.
    """

    hparams_class: type = ToyHyperParams
    calls: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, model: Any, tok: Any, requests: list[dict[str, Any]], hparams: Any, **kwargs: Any) -> Any:
        from easyedit_lifelong.models.prompt_positions import PositionTracker

        self.calls.append({"requests": requests, "hparams": hparams, **kwargs})
        tracker = PositionTracker.attach(model)
        tokens = [tok(" " + request["target_new"])["input_ids"][0] for request in requests]

        widths: list[int] = []

        def measure(_: Any, __: Any, embedded: Any) -> None:
            widths[:] = [embedded.shape[1]]

        def raise_target(_: Any, __: Any, logits: Any) -> Any:
            logits = logits.clone()
            left_out = widths[0] - logits.shape[1]  # generate() computes only the last columns
            for row, end in enumerate(tracker.window.ends.tolist()):
                if end >= left_out:
                    logits[row, end - left_out, tokens[-1]] += 1000.0
            return logits

        handles = [
            model.get_input_embeddings().register_forward_hook(measure),
            model.get_output_embeddings().register_forward_hook(raise_target),
        ]

        def undo() -> None:
            for handle in handles:
                handle.remove()
            tracker.detach()

        return model, Rollback(undo, on_items=kwargs.get("keep_original_weight", False))


class Plugin:
    """A plugin with one method."""

    def __init__(self, method: EditMethod) -> None:
        self.method = method

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        register(self.method)
