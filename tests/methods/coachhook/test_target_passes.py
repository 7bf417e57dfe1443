"""Which passes CoachHook's target vectors are trained with."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from easyedit_lifelong.methods.locate_edit import suffix_rows
from easyedit_lifelong.methods.locate_edit.suffix_rows import SuffixRows
from easyedit_lifelong.methods.shared.results import EditResult
from tests.support.coachhook_edits import editor_on, hparams_for, requests_for
from tests.support.tiny_models import build_model, build_tokenizer


def edit_in_two_batches(**options: Any) -> list[EditResult]:
    """Edit a model that normalises the output of its MLPs, with hook layers that have edits from the second on."""
    hparams = hparams_for("gemma2", layers=[0, 1], v_num_grad_steps=4, **options)
    return editor_on(build_model("gemma2"), build_tokenizer(), hparams).edit(requests_for(0, 1, 2, 3))[0]


@pytest.mark.parametrize("wohk", [False, True])
def test_the_hook_of_the_changed_projection_does_not_need_full_passes(
    monkeypatch: pytest.MonkeyPatch, wohk: bool
) -> None:
    partial: list[bool] = []
    original = SuffixRows._run

    def run(rows: SuffixRows, change: Tensor) -> Any:
        partial.append(rows._partial)
        return original(rows, change)

    monkeypatch.setattr(SuffixRows, "_run", run)
    edit_in_two_batches(wohk=wohk)
    assert len(partial) > 4
    assert all(partial)


def test_partial_passes_give_the_values_of_full_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    results = edit_in_two_batches()
    monkeypatch.setattr(suffix_rows, "same_logits", lambda *_: False)
    for result, of_full_passes in zip(results, edit_in_two_batches(), strict=True):
        assert result.loss == pytest.approx(of_full_passes.loss, rel=2e-3)
