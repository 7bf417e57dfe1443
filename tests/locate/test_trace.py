"""Traces equal those by the definition, in every family, whatever the batches; the model is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPTNeoXConfig,
    MambaConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
)

from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.locate.corruption import GaussianNoise, OtherSubjects, subject_embedding_deviation
from easyedit_lifelong.locate.known_facts import EncodedFact, KnownFact, encode_known_fact
from easyedit_lifelong.locate.restorations import KINDS, MODULES
from easyedit_lifelong.locate.sites import Sites
from easyedit_lifelong.locate.trace import Tracer, trace_fact
from easyedit_lifelong.models.partial_pass import hidden_of, with_hidden
from tests.support.architectures import untrained
from tests.support.tiny_models import FAMILIES, VOCABULARY, build_model, build_tokenizer, state_of

_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SMALL = {**_COMMON, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
OTHER_FAMILIES: dict[str, Any] = {
    "bloom": BloomConfig(**_COMMON, hidden_size=32, n_layer=3, n_head=4),
    "gpt_neox": GPTNeoXConfig(**_SMALL, intermediate_size=64, max_position_embeddings=64),
    "opt": OPTConfig(**_SMALL, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64),
    "phi": PhiConfig(**_SMALL, intermediate_size=64, max_position_embeddings=64),
    "mpt": MptConfig(**_COMMON, d_model=32, n_heads=4, n_layers=3, max_seq_len=64),
    "mixtral": MixtralConfig(
        **_SMALL,
        experts_implementation="eager",
        intermediate_size=48,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ),
}
SAMPLES, NOISE = 3, 2.0


def build(family: str) -> Any:
    """Build a tiny model of a family in float64."""
    if family in FAMILIES:
        return build_model(family, torch.float64)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHER_FAMILIES[family]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def encoded(tokenizer: Any) -> EncodedFact:
    return encode_known_fact(tokenizer, KnownFact(0, "when was the old king born in Peru", "old king", "Paris"))


@torch.no_grad()
def by_definition(
    model: Any, fact: EncodedFact, token: int, restored: dict[Any, Any], frozen: dict[Any, Any] | None = None
) -> float:
    """Return P*,clean[o]: run the full model on each corrupted row, with outputs of modules replaced at a token.

    Args:
        model: the model.
        fact: the fact.
        token: the token.
        restored: modules whose outputs get their clean values.
        frozen: modules whose outputs get their corrupted values.
    """
    embed, (begin, end) = model.get_input_embeddings(), fact.subject
    ids = torch.tensor([fact.prompt])
    mode, noise, stored = "", None, {}

    def hook(module: Any, _: Any, output: Any) -> Any:
        result = hidden_of(output).clone()
        hidden = result.view(1, len(fact.prompt), -1)  # some modules return flattened rows
        if module is embed:
            if noise is not None:
                hidden[0, begin:end] = noise
        elif mode in ("clean", "corrupted"):
            stored[mode, module] = hidden
        else:
            source = "clean" if module in restored else "corrupted"
            hidden[0, token] = stored[source, module][0, token]
        return with_hidden(output, result)

    modules = [embed, *restored, *(frozen or {})]
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        mode = "clean"
        model(ids)
        subject = embed.weight[ids[0, begin:end]]
        if "gemma" in type(model).__name__.lower():
            noise = None
            subject = stored_embedding(model, ids)[0, begin:end]
        chances = []
        for row in GaussianNoise(NOISE, SAMPLES)(fact, subject):
            noise, mode = row, "corrupted"
            model(ids)
            mode = "restored"
            chances.append(model(ids).logits[0, -1].softmax(-1)[fact.answer[0]])
        return float(torch.stack(chances).mean())
    finally:
        for handle in handles:
            handle.remove()


def stored_embedding(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the embeddings as the model's module returns them."""
    with torch.no_grad():
        embedding: torch.Tensor = type(model.get_input_embeddings()).forward(model.get_input_embeddings(), ids)
    return embedding


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])
def test_scores_equal_the_definition_in_every_family(family: str) -> None:
    model, tokenizer = build(family).cpu(), build_tokenizer()
    fact = encoded(tokenizer)
    trace = Tracer(model, tokenizer, GaussianNoise(NOISE, SAMPLES), window=2).trace(fact)
    sites, n_layers = Sites(model), trace.scores["state"].shape[1]
    last, subject = len(fact.prompt) - 1, fact.subject[1] - 1

    def close(ours: Any, theirs: float) -> None:
        assert float(ours) == pytest.approx(theirs, abs=1e-9)

    for token, layer in ((subject, 0), (subject, 1), (last, 1), (subject + 1, n_layers - 1), (last, n_layers - 1)):
        close(trace.scores["state"][token, layer], by_definition(model, fact, token, {sites.blocks[layer]: 1}))
    for kind in MODULES:
        modules = sites.modules(kind)
        for token, layer in ((subject, 0), (last, 1), (subject, n_layers - 1)):
            window = dict.fromkeys(modules[max(0, layer - 1) : layer + 1])
            close(trace.scores[kind][token, layer], by_definition(model, fact, token, window))
        restored = {sites.blocks[0]: 1}
        close(
            trace.severed[kind][0],
            by_definition(model, fact, subject, restored, dict.fromkeys(modules[1:])),
        )


def test_batches_change_nothing(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    fact = encoded(tokenizer)
    one, many = (
        Tracer(model, tokenizer, GaussianNoise(NOISE, SAMPLES), tokens_per_pass=size).trace(fact) for size in (1, 10**6)
    )
    for kind in KINDS:
        torch.testing.assert_close(one.scores[kind], many.scores[kind], rtol=0, atol=1e-12)


def test_a_token_before_the_subject_and_the_ends_have_known_scores(pair: tuple[Any, Any]) -> None:
    trace = Tracer(*pair, GaussianNoise(NOISE, SAMPLES)).trace(encoded(pair[1]))
    state = trace.indirect_effects()
    assert (state[: trace.subject[0]] == 0).all()
    assert state[-1, -1] == pytest.approx(trace.total_effect)
    assert (state[:-1, -1] == 0).all()
    assert state[trace.subject[0] :, :-1].abs().min() > 0


def test_one_token_subjects_are_restored_completely_in_the_lowest_window() -> None:
    """With all MLPs and all attention before the first block nothing is left to restore but the embeddings."""
    model, tokenizer = build_model("llama", torch.float64), build_tokenizer()
    trace = trace_fact(model, tokenizer, "France is", "France", "Paris", noise=0.0)
    for kind in KINDS:
        torch.testing.assert_close(trace.scores[kind], torch.full_like(trace.scores[kind], trace.high))


def test_the_model_is_left_as_it_was(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    before, hooks = state_of(model), [len(module._forward_hooks) for module in model.modules()]
    model.train()
    Tracer(model, tokenizer, GaussianNoise(NOISE, SAMPLES)).trace(encoded(tokenizer))
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert not any("forward" in vars(module) for module in model.modules())


def test_other_subjects_replace_the_subject(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    embed, fact = model.get_input_embeddings(), encoded(tokenizer)
    other = encode_known_fact(tokenizer, KnownFact(1, "where is green cheese made", "green cheese", "Rome"))
    corruption = OtherSubjects([fact, other], embed)
    trace = Tracer(model, tokenizer, corruption).trace(fact)
    prompt = [*fact.prompt[: fact.subject[0]], *other.subject_ids, *fact.prompt[fact.subject[1] :]]
    with torch.no_grad():
        expected = model(torch.tensor([prompt], device=model.device)).logits[0, -1].softmax(-1)[fact.answer[0]]
    assert trace.low == pytest.approx(float(expected), abs=1e-9)
    single = encode_known_fact(tokenizer, KnownFact(2, "the moon is", "moon", "blue"))
    with pytest.raises(DataError, match="no other subject of the data has 1 token"):
        corruption(single, torch.zeros(1, 32))


def test_the_noise_of_a_sample_does_not_depend_on_other_facts(pair: tuple[Any, Any]) -> None:
    fact, embeddings = encoded(pair[1]), torch.zeros(2, 5, dtype=torch.float64)
    noise = GaussianNoise(0.5, samples=2, seed=1)(fact, embeddings)
    assert torch.equal(noise, GaussianNoise(0.5, samples=2, seed=1)(fact, embeddings))
    assert not torch.equal(noise, GaussianNoise(0.5, samples=2, seed=2)(fact, embeddings))
    assert float(GaussianNoise(0.5, samples=500)(fact, embeddings).std()) == pytest.approx(0.5, rel=0.05)


def test_the_deviation_is_that_of_the_subjects_tokens(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    embed = model.get_input_embeddings()
    ids = tokenizer("old king")["input_ids"] + tokenizer("moon")["input_ids"]
    expected = float(embed.weight[ids].detach().std())
    assert subject_embedding_deviation(tokenizer, embed, ["old king", "moon"]) == pytest.approx(expected)
    with pytest.raises(DataError, match="no tokens"):
        subject_embedding_deviation(tokenizer, embed, [])


def test_wrong_arguments_are_named(pair: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match="'Peru' isn't in the prompt"):
        trace_fact(*pair, "the old king is", "Peru", "Paris")
    with pytest.raises(DataError, match="at least 1"):
        trace_fact(*pair, "the old king is", "old king", "Paris", samples=0)


def test_a_model_without_an_attention_names_the_other_kinds() -> None:
    config = MambaConfig(**_COMMON, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match=r"the attention of block 0 isn't found.*state, mlp"):
        Tracer(model, build_tokenizer(), GaussianNoise(1.0), kinds=["attention"], severed=[])


@pytest.mark.parametrize(("kind", "named"), [("t5", "sequence-to-sequence model"), ("bert", "sequence classifier")])
def test_a_model_of_another_kind_is_refused(kind: str, named: str) -> None:
    with pytest.raises(ModelError, match=f"is a {named}. Only the states of causal language models"):
        Sites(untrained(kind))
