"""IKE with retrieval: which facts are put in front of a prompt, by the definition."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    EditError,
    HyperParameterError,
    IKEHyperParams,
    ModelError,
    RunError,
    apply_retrieval_to_model,
    explain,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_case,
    save_edits,
)
from easyedit_lifelong.methods.retrieval import demonstrations
from easyedit_lifelong.methods.retrieval.demonstrations import Demonstrations
from easyedit_lifelong.methods.retrieval.editor import IKEEditor
from easyedit_lifelong.methods.retrieval.embedding import Standardisation, StateEmbedder
from easyedit_lifelong.methods.retrieval.store import RetrievalStore
from easyedit_lifelong.methods.shared.sample_sentences import sample_sentences
from tests.conformance.method_cases import REQUESTS
from tests.methods.retrieval.tiny_encoder import write_encoder
from tests.support.tiny_models import DEVICE, build_model, build_tokenizer, with_beginning_token

LAYER = 2
QUERY = "the old capital of France was"


def hparams(**values: Any) -> IKEHyperParams:
    """Return hyperparameters for a tiny model."""
    return IKEHyperParams(model_name="tiny", embedding_layer=LAYER, **values)


def edited(requests: list[dict[str, Any]] = REQUESTS, **values: Any) -> Any:
    """Return a tiny model that carries edits."""
    model = build_model("llama")
    apply_retrieval_to_model(model, build_tokenizer(), requests, hparams(**values))
    return model


def logits_after(model: Any, text: str, count: int) -> torch.Tensor:
    """Return a model's logits at the last ``count`` tokens of a text."""
    ids = torch.tensor([build_tokenizer()(text)["input_ids"]], device=DEVICE)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits[0, -count:]
    return logits


def assert_answers_like(model: Any, prompt: str, text: str) -> None:
    """Compare the edited model's logits at a prompt with those of the base model at a text that ends with it."""
    count = len(prompt.split())
    expected = logits_after(build_model("llama"), text, count)
    torch.testing.assert_close(logits_after(model, prompt, count), expected, rtol=0, atol=5e-5)


@pytest.fixture(scope="module")
def model() -> Any:
    """A model with four edits, which tests only read."""
    return edited()


def test_a_prompt_is_answered_with_its_fact_in_front(model: Any) -> None:
    for request in REQUESTS:
        fact = f"{request['prompt']} {request['target_new']}"
        assert_answers_like(model, request["prompt"], f"New Fact: {fact} Prompt: {request['prompt']}")


def embedding_of(base: Any, text: str) -> torch.Tensor:
    """Return the mean input of the block over all tokens but the first, in float64, from the hidden states."""
    ids = torch.tensor([build_tokenizer()(text)["input_ids"]], device=DEVICE)
    with torch.no_grad():
        states = base(input_ids=ids, output_hidden_states=True).hidden_states[LAYER][0].double()
    return (states[1:] if len(states) > 1 else states).mean(dim=0)


def test_the_nearest_edit_is_that_of_the_standardised_states(model: Any) -> None:
    base = build_model("llama")
    sentences = torch.stack([embedding_of(base, text) for text in sample_sentences().texts])
    mean, spread = sentences.mean(dim=0), sentences.std(dim=0)
    keys = torch.stack([(embedding_of(base, request["prompt"]) - mean) / spread for request in REQUESTS])
    for prompt in (QUERY, "piano", "green mountain", "who plays Hamlet"):
        query = (embedding_of(base, prompt) - mean) / spread
        cosines = torch.nn.functional.cosine_similarity(keys, query.unsqueeze(0))
        (found,) = explain(model, build_tokenizer(), prompt).layers["IKE-native"]
        assert found.answered_by == REQUESTS[int(cosines.argmax())]["case_id"]
        assert found.nearest[0].cosine == pytest.approx(float(cosines.max()), abs=1e-4)


def test_several_facts_stand_in_front_the_nearest_last() -> None:
    model = edited(n_facts=2)
    (found,) = explain(model, build_tokenizer(), QUERY).layers["IKE-native"]
    facts = [f"New Fact: {edit.prompt} {edit.target_new}" for edit in reversed(found.nearest)]
    assert len(facts) == 2
    assert found.nearest[0].cosine > found.nearest[1].cosine
    assert_answers_like(model, QUERY, f"{' '.join(facts)} Prompt: {QUERY}")
    assert len(edited(REQUESTS[:1], n_facts=2).get_input_embeddings().weight) > 0, "fewer edits than n_facts"


def test_the_latest_edit_of_a_prompt_answers_until_it_is_rolled_back() -> None:
    model = edited()
    again = {**REQUESTS[0], "case_id": "again", "target_new": "London"}
    apply_retrieval_to_model(model, build_tokenizer(), [again], hparams())
    prompt = again["prompt"]
    assert_answers_like(model, prompt, f"New Fact: {prompt} London Prompt: {prompt}")
    assert [len(editor.answering) for editor in IKEEditor.all_on(model)] == [len(REQUESTS)]
    rollback_case(model, "again")
    assert_answers_like(model, prompt, f"New Fact: {prompt} Rome Prompt: {prompt}")


def test_the_results_have_the_loss_of_the_target_after_fact_and_prompt() -> None:
    _, rollback = apply_retrieval_to_model(build_model("llama"), build_tokenizer(), REQUESTS[:1], hparams())
    prompt, target = REQUESTS[0]["prompt"], REQUESTS[0]["target_new"]
    logits = logits_after(build_model("llama"), f"New Fact: {prompt} {target} Prompt: {prompt}", 1)
    (token,) = build_tokenizer()(target)["input_ids"]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([token], device=DEVICE))
    assert rollback.results[0].loss == pytest.approx(float(expected), abs=1e-4)
    assert rollback.results[0].detail["context_tokens"] == len(prompt.split()) + 4


def test_demonstrations_copy_update_and_retain(tmp_path: Path) -> None:
    record = {
        "prompt": "where was the bird born",
        "target_new": "Peru",
        "rephrase_prompt": "the bird was born where",
        "locality": {"other": {"prompt": "language spoken in Peru", "ground_truth": "Spanish"}},
    }
    path = tmp_path / "demonstrations.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    embedder, zero = StateEmbedder(build_model("llama"), LAYER), torch.zeros(32, device=DEVICE)
    standardisation = Standardisation(zero, zero + 1)

    def nearest(prompt: str, count: int) -> list[str]:
        settings = hparams(demonstrations=str(path), n_demonstrations=count)
        return Demonstrations(build_tokenizer(), settings, embedder, standardisation).nearest(prompt)

    prompted = ["where was the bird born Peru", "the bird was born where Peru", "language spoken in Peru Spanish"]
    texts = [f"New Fact: where was the bird born Peru\nPrompt:{text}\n\n" for text in prompted]
    assert sorted(nearest(QUERY, 16)) == sorted(texts)
    assert nearest("language spoken in Peru", 2)[-1] == texts[2]
    data = IKEEditor.all_on(edited(REQUESTS[:1], demonstrations=str(path), n_demonstrations=1))[0].edits[0].data
    assert len(data["demonstrations"]) == len(texts[0].split())


def test_a_file_of_demonstrations_is_read_once_for_the_edits_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads, read = tmp_path / "demonstrations.json", list[str](), demonstrations.read_requests
    path.write_text(json.dumps([{"prompt": "where was the bird born", "target_new": "Peru"}]), encoding="utf-8")
    monkeypatch.setattr(demonstrations, "read_requests", lambda file, *rest: reads.append(file) or read(file, *rest))
    model = edited(REQUESTS[:1], demonstrations=str(path))
    for request, template, n_reads in ((REQUESTS[1], "New Fact: {fact}\n", 1), (REQUESTS[2], "Fact: {fact}\n", 2)):
        settings = hparams(demonstrations=str(path), fact_template=template)
        apply_retrieval_to_model(model, build_tokenizer(), [request], settings)
        assert len(reads) == n_reads
    texts = [edit.data["demonstrations"] for edit in IKEEditor.all_on(model)[0].edits]
    assert len(texts[0]) == len(texts[1]) == len(texts[2]) + 1  # without "New"


def test_the_beginning_token_is_first_in_the_text_and_not_in_the_fact() -> None:
    model, tokenizer = build_model("llama"), with_beginning_token(build_tokenizer())
    request = {**REQUESTS[0], "prompt": f"<s> {REQUESTS[0]['prompt']}"}
    apply_retrieval_to_model(model, tokenizer, [request], hparams())
    (editor,) = IKEEditor.all_on(model)
    context = editor.contexts_of([tokenizer(REQUESTS[0]["prompt"])["input_ids"]])[0]
    assert context.count(tokenizer.bos_token_id) == 1
    assert context[0] == tokenizer.bos_token_id


# ------------------------------------------------------------------ folders


def test_merged_folders_keep_the_later_edit_of_a_prompt(tmp_path: Path) -> None:
    save_edits(edited(REQUESTS[:2]), tmp_path / "one")
    save_edits(edited([{**REQUESTS[0], "target_new": "London"}]), tmp_path / "two")
    report = merge_edits([tmp_path / "one", tmp_path / "two"], tmp_path / "all")
    assert (report.edits, len(report.conflicts), [case.after for case in report.renamed]) == (3, 1, ["france@two"])
    model, prompt = build_model("llama"), REQUESTS[0]["prompt"]
    load_edits(model, tmp_path / "all")
    assert_answers_like(model, prompt, f"New Fact: {prompt} London Prompt: {prompt}")
    (part,) = inspect_edits(tmp_path / "all").parts
    assert [edit["replaced_by"] for edit in part.edits] == [3, None, None]
    assert all(-1 <= edit["cosine"] <= 1 for edit in part.edits[1:])


def test_the_rollback_of_loaded_edits_leaves_the_comparison_of_earlier_ones() -> None:
    model, store = edited(REQUESTS[:2]), RetrievalStore(IKEEditor)
    (editor,) = IKEEditor.all_on(model)
    before = editor.comparison
    (part,) = store.parts(edited(REQUESTS[2:]))
    undo = store.attach(model, None, replace(part, tensors={**part.tensors, "mean": part.tensors["mean"] + 1}), "file")
    assert len(editor.edits) == len(REQUESTS)
    undo()
    assert editor.comparison is before


@pytest.mark.parametrize("name", ["prompt", "fact", "mean"])
def test_damaged_edits_are_refused(name: str) -> None:
    store = RetrievalStore(IKEEditor)
    (part,) = store.parts(edited(REQUESTS[:1]))
    (data,) = part.state["data"]
    if name == "mean":
        part = replace(part, tensors={**part.tensors, name: part.tensors[name][:, 1:]})
    else:
        part = replace(part, state={"data": [{**data, name: ["king"]}]})
    with pytest.raises(RunError, match=r"file: the .* of case 'france' need"):
        store.describe(part, "file", 1.0)


# ------------------------------------------------------------------ sentence encoders


def test_a_sentence_encoder_embeds_prompts_and_needs_the_tokenizer_to_load(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    model = edited(sentence_encoder=encoder)
    (found,) = explain(model, build_tokenizer(), REQUESTS[1]["prompt"]).layers["IKE-native"]
    assert found.answered_by == REQUESTS[1]["case_id"]
    assert found.nearest[0].cosine == pytest.approx(1, abs=1e-5)
    save_edits(model, tmp_path / "edits")
    loaded = build_model("llama")
    with pytest.raises(EditError, match=r"load_edits\(model, folder, tokenizer\)"):
        load_edits(loaded, tmp_path / "edits")
    load_edits(loaded, tmp_path / "edits", build_tokenizer())
    for request in REQUESTS:
        assert torch.equal(logits_after(loaded, request["prompt"], 1), logits_after(model, request["prompt"], 1))


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(HyperParameterError, match=r"sentence_encoder: .*cannot be used"):
        edited(sentence_encoder=str(tmp_path / "nothing"))
    without_padding = build_tokenizer()
    without_padding.pad_token = None
    build_model("gpt2").save_pretrained(tmp_path / "gpt2")
    without_padding.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(HyperParameterError, match=r"gpt2' cannot be used: .* does not have a padding token"):
        edited(sentence_encoder=str(tmp_path / "gpt2"))
    (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "bert", "hidden_size": "x"}', encoding="utf-8")
    with pytest.raises(HyperParameterError, match=r"gpt2' cannot be used: .*hidden_size"):
        edited(sentence_encoder=str(tmp_path / "gpt2"))
    with pytest.raises(HyperParameterError, match=r"fact_template: .* must contain {fact} once"):
        hparams(fact_template="New Fact:")
    with pytest.raises(ModelError, match="embedding_layer: LlamaForCausalLM has no block 4; the last one is 3"):
        StateEmbedder(build_model("llama"), 4)
    model, other = edited(), IKEHyperParams(model_name="tiny", embedding_layer=1)
    with pytest.raises(EditError, match="embedding_layer=2; they can't be continued with embedding_layer=1"):
        apply_retrieval_to_model(model, build_tokenizer(), REQUESTS[:1], other)
    with pytest.raises(EditError, match="n_facts=1; they can't be continued with n_facts=2"):
        apply_retrieval_to_model(model, build_tokenizer(), REQUESTS[:1], hparams(n_facts=2))
