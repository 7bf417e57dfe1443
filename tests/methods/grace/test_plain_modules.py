"""GRACE on torch modules other than language models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from easyedit_lifelong import GraceHyperParams, apply_grace_to_module, load_edits, save_edits
from easyedit_lifelong.errors import DataError, EditError, ModelError
from tests.support.tiny_models import state_of


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class SequenceClassifier(nn.Module):
    """Classifies sequences of vectors by their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.inside(rows).mean(dim=1))


def hparams_for(layer: str, **options: object) -> GraceHyperParams:
    return GraceHyperParams.from_values({"model_name": "m", "inner_params": [layer], "eps": 0.05, **options}, "test")


def inputs_and_classes() -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    return rows, (network()(rows).argmax(dim=1) + 1) % 3


def test_edited_rows_get_their_classes_and_the_others_keep_their_outputs() -> None:
    module, (rows, classes) = network(), inputs_and_classes()
    before, state = module(rows[4:]), state_of(module)
    edited, rollback = apply_grace_to_module(module, rows[:4], classes[:4], hparams_for("2.weight"))
    assert edited is module
    assert edited(rows)[:4].argmax(dim=1).tolist() == classes[:4].tolist()
    assert torch.equal(edited(rows[4:]), before)
    assert [result.learned for result in rollback.results] == [True] * 4
    rollback()
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in state.items())
    assert set(module.state_dict()) == set(state)
    assert not [name for part in module.modules() for name in vars(part) if "easyedit" in name]


def test_sequences_are_looked_up_at_their_last_token() -> None:
    module, rows = SequenceClassifier(), torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(2))
    classes = (module(rows).argmax(dim=1) + 1) % 3
    before = module(rows[3:])
    apply_grace_to_module(module, rows[:3], classes[:3], hparams_for("inside", replacement="replace_all"))
    assert module(rows)[:3].argmax(dim=1).tolist() == classes[:3].tolist()
    assert torch.equal(module(rows[3:]), before)
    same_last_token = torch.cat([torch.randn(1, 4, 8), rows[:1, -1:]], dim=1)
    assert int(module(same_last_token).argmax()) == int(classes[0]), "a token other than the last one decided"


def test_loaded_edits_give_the_same_outputs_and_can_be_continued(tmp_path: Path) -> None:
    module, (rows, classes) = network(), inputs_and_classes()
    apply_grace_to_module(module, rows[:4], classes[:4], hparams_for("2"))
    save_edits(module, tmp_path)
    loaded_module = network()
    unedited = loaded_module(rows)
    rollback = load_edits(loaded_module, tmp_path)
    assert torch.equal(loaded_module(rows), module(rows))
    assert [record["target_new"] for record in rollback.results] == [str(int(label)) for label in classes[:4]]
    apply_grace_to_module(loaded_module, rows[4:5], classes[4:5], hparams_for("2"))
    assert int(loaded_module(rows)[4].argmax()) == int(classes[4])
    rolled_back = network()
    load_edits(rolled_back, tmp_path)()
    assert torch.equal(rolled_back(rows), unedited)


def test_wrong_inputs_are_refused_and_leave_the_module_unedited() -> None:
    module, (rows, classes) = network(), inputs_and_classes()
    with pytest.raises(DataError, match="2 inputs and 1 labels"):
        apply_grace_to_module(module, rows[:2], classes[:1], hparams_for("2"))
    with pytest.raises(DataError, match="0 inputs"):
        apply_grace_to_module(module, rows[:0], classes[:0], hparams_for("2"))
    with pytest.raises(ModelError, match="no layer '7'"):
        apply_grace_to_module(module, rows[:2], classes[:2], hparams_for("7"))
    with pytest.raises(EditError, match=r"row 1: .* NaN or infinite"):
        apply_grace_to_module(module, rows[:2] * torch.tensor([[1.0], [torch.nan]]), classes[:2], hparams_for("2"))
    rows[1] = 0
    with pytest.raises(EditError, match=r"row 1: .* are all zero. With dist_fn: cos, a key without a direction never"):
        apply_grace_to_module(module, rows[:2], classes[:2], hparams_for("0", dist_fn="cos"))
    assert not [name for part in module.modules() for name in vars(part) if "easyedit" in name]
    assert not any(part._forward_hooks for part in module)
