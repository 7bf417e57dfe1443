"""An edited model is not pickled into a file that can't be read again; the message says how to save its edits."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

from easyedit_lifelong.errors import EditError
from tests.support import memit_edits
from tests.support.saved_edits import METHODS, equal, logits_of
from tests.support.tiny_models import build_model

REFUSAL = r"can't be pickled.*save_edits.*load_edits"


@pytest.mark.parametrize("method", ["GRACE", "CoachHook", "MEMIT-native"])
def test_pickling_is_refused_and_copying_is_not(tmp_path: Path, method: str) -> None:
    model = build_model("llama")
    if method == "MEMIT-native":
        model = memit_edits.edited()
    else:
        METHODS[method](model, "llama")
    with pytest.raises(EditError, match=REFUSAL):
        pickle.dumps(model)
    with pytest.raises(EditError, match=REFUSAL):
        torch.save(model, tmp_path / "model.pt")
    assert equal(logits_of(copy.deepcopy(model)), logits_of(model))


def test_after_a_rollback_the_model_can_be_pickled() -> None:
    model = build_model("llama")
    expected = logits_of(model)
    _, rollback = METHODS["GRACE"](model, "llama")
    rollback()
    assert equal(logits_of(pickle.loads(pickle.dumps(model))), expected)
