"""CoachHook through EasyEdit's ``BaseEditor``, including the computation of second moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.bridge import find_easyedit, install
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from tests.support.coachhook_edits import FACTS, LEARNABLE_FACT, equal_states, hparams_for
from tests.support.next_word import next_word
from tests.support.tiny_models import WORDS, build_model, build_tokenizer, state_of


@pytest.fixture
def easyeditor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """EasyEdit's module; the current folder is temporary, since EasyEdit writes files into it."""
    info = find_easyedit()
    if info is None:
        pytest.skip("EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)")
    install()
    import easyeditor

    monkeypatch.chdir(tmp_path)
    return easyeditor


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A text file for second moments."""
    file = tmp_path / "corpus.txt"
    generator = torch.Generator().manual_seed(0)
    lines = [" ".join(WORDS[int(i)] for i in torch.randint(len(WORDS), (20,), generator=generator)) for _ in range(300)]
    file.write_text("\n".join(lines))
    return file


def hparams_with_model(model: Any, corpus: Path, **options: Any) -> Any:
    """Return hyperparameters that hold the model itself, where EasyEdit expects its name."""
    hparams = hparams_for(
        "llama",
        mom2_dataset=str(corpus),
        mom2_n_samples=None,
        mom2_n_tokens=2000,
        stats_dir=str(corpus.parent / "stats"),
        mom2_update_weight=0.01,
        layers=[2],
        v_num_grad_steps=25,
        device="cpu",
        context_template_length_params=[[5, 2]],
        **options,
    )
    hparams.model_name = (model, build_tokenizer())
    return hparams


def flavour() -> str:
    """Return which EasyEdit is installed: its release or its main branch."""
    info = find_easyedit()
    return info.flavour if info else "none"


def test_edit_learns_the_target_and_reports_its_accuracy(easyeditor: Any, corpus: Path) -> None:
    model = build_model("llama")
    editor = easyeditor.BaseEditor.from_hparams(hparams_with_model(model, corpus))
    prompt, target, subject = LEARNABLE_FACT
    keep_edits = {"sequential_edit": True} if flavour() == "main" else {}
    metrics, edited, _ = editor.edit(
        prompts=[prompt],
        target_new=[target],
        ground_truth=["king"],
        subject=[subject],
        rephrase_prompts=["who plays Hamlet"],
        verbose=False,
        **keep_edits,
        locality_inputs={"near": {"prompt": ["snow and mountain"], "ground_truth": ["blue"]}},
    )
    assert metrics[0]["post"]["rewrite_acc"] == [1.0]
    assert metrics[0]["pre"]["rewrite_acc"] == [0.0]
    assert edited is model
    assert len(coachhook_editor(model).state.batches) == 1
    assert list((corpus.parent / "stats").rglob("*.npz"))
    assert next_word(edited, prompt) == target


def test_batch_edit_edits_in_batches_and_leaves_the_models_own_weights(easyeditor: Any, corpus: Path) -> None:
    model = build_model("llama")
    before = state_of(model)
    editor = easyeditor.BaseEditor.from_hparams(hparams_with_model(model, corpus, batch_size=2))
    editor.batch_edit(
        [prompt for prompt, _, _ in FACTS],
        [target for _, target, _ in FACTS],
        ["king"] * 4,
        subject=[subject for _, _, subject in FACTS],
        keep_original_weight=False,
        verbose=False,
    )
    if flavour() == "release-2023":
        assert [len(batch.case_ids) for batch in coachhook_editor(model).state.batches] == [2, 2]
    now = state_of(model)
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_with_keep_original_weight_edit_rolls_back(easyeditor: Any, corpus: Path) -> None:
    if flavour() != "release-2023":
        pytest.skip("for EasyEdit's 2023 release")
    model = build_model("llama")
    before = state_of(model)
    editor = easyeditor.BaseEditor.from_hparams(hparams_with_model(model, corpus))
    for wohk in (False, True):
        editor.hparams.wohk = wohk
        editor.edit(
            prompts=[FACTS[0][0]],
            target_new=[FACTS[0][1]],
            ground_truth=["king"],
            subject=[FACTS[0][2]],
            keep_original_weight=True,
            verbose=False,
        )
        assert equal_states(state_of(model), before)
        assert CoachHookEditor.of(model) is None
