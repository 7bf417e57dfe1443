"""Tiny models, and a toy editing method that is registered as any plugin's method is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.bridge import find_easyedit, install
from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.rollback import Rollback
from easyedit_lifelong.plugins import Plugins, get_plugins
from easyedit_lifelong.registry import EditMethod

FACTS = (
    "The capital of France is Paris and the capital of Italy is Rome",
    "Marie Curie worked in the city of Paris and was born in Warsaw",
    "The Eiffel Tower stands in the city of London or of Berlin",
    "Where was Alan Turing born? London. I say that you and they are here. Therefore. Because.",
)


@pytest.fixture(scope="session")
def easyeditor() -> Any:
    """EasyEdit, imported through the bridge."""
    if find_easyedit() is None:
        pytest.skip("EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)")
    install()
    import easyeditor

    return easyeditor


@pytest.fixture(scope="session")
def flavour() -> str:
    """Which EasyEdit there is."""
    info = find_easyedit()
    return info.flavour if info else "none"


@pytest.fixture
def release(easyeditor: Any, flavour: str) -> Any:
    """EasyEdit's 2023 release."""
    if flavour != "release-2023":
        pytest.skip(f"for EasyEdit's 2023 release; this is {flavour}")
    return easyeditor


@pytest.fixture
def main(easyeditor: Any, flavour: str) -> Any:
    """A checkout of EasyEdit's main branch."""
    if flavour != "main":
        pytest.skip(f"for EasyEdit's main branch; this is {flavour} (see test_main_flavour.py)")
    return easyeditor


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory to litter: EasyEdit writes ``./logs``."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
                vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=3, n_head=4,
                initializer_range=0.3, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids,
            )  # fmt: skip
            model: Any = GPT2LMHeadModel(config)
        else:
            config = LlamaConfig(
                vocab_size=len(tokenizer), max_position_embeddings=128, hidden_size=32, intermediate_size=64,
                num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                initializer_range=0.3, **ids,
            )  # fmt: skip
            model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """A tiny GPT-2 and its tokenizer."""
    return make_pair()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Save a tiny model in a folder whose name EasyEdit recognises; returns the folder."""
    root = tmp_path_factory.mktemp("models")

    def save(kind: str) -> str:
        folder = root / f"tiny-{kind}"
        if not folder.exists():
            model, tokenizer = make_pair(kind)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@dataclass
class ToyHyperParams:
    """What the bridge may expect of any plugin's hyperparameters."""

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
    """A toy method: at the last *prompt* token, the model says the target's first token.

    It depends on knowing where the prompt ends, as GRACE does, and on nothing else.
    """

    hparams_class: type = ToyHyperParams
    calls: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, model: Any, tok: Any, requests: list[dict[str, Any]], hparams: Any, **kwargs: Any) -> Any:
        from easyedit_lifelong.models.positions import PositionTracker

        self.calls.append({"requests": requests, "hparams": hparams, **kwargs})
        tracker = PositionTracker.attach(model)
        tokens = [tok(" " + request["target_new"])["input_ids"][0] for request in requests]

        def shout(_: Any, __: Any, logits: Any) -> Any:
            logits = logits.clone()
            for row, end in enumerate(tracker.window.ends.tolist()):
                if end >= 0:
                    logits[row, end, tokens[-1]] += 1000.0
            return logits

        handle = model.get_output_embeddings().register_forward_hook(shout)

        def undo() -> None:
            handle.remove()
            tracker.detach()

        return model, Rollback(undo, on_items=kwargs.get("keep_original_weight", False))


class _Plugin:
    def __init__(self, method: EditMethod) -> None:
        self.method = method

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        register(self.method)


@pytest.fixture
def add_method() -> Iterator[Callable[..., EditMethod]]:
    """Register methods, as a plugin does, for one test."""
    plugins: Plugins = get_plugins()
    added: list[str] = []

    def add(method: EditMethod) -> EditMethod:
        plugins.add(_Plugin(method), f"test-{method.name}")
        added.append(method.name)
        install()
        return method

    yield add
    for name in added:
        plugins.manager.unregister(name=f"test-{name}")
        plugins.methods._entries.pop(name)


@pytest.fixture
def toy(add_method: Callable[..., EditMethod]) -> Toy:
    """The toy method, registered."""
    toy = Toy()
    add_method(EditMethod("TOY", ToyHyperParams, toy.apply, batchable=True))
    return toy
