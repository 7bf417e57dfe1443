"""What AlphaEdit registers in addition to the ports that it shares with MEMIT."""

from __future__ import annotations

from easyedit_lifelong import AlphaEditHyperParams, get_plugins
from easyedit_lifelong.methods.edit_stores import EditsPart
from tests.support.easyedit_memit import NAMES


def test_inspect_shows_the_settings_of_the_null_space() -> None:
    hparams = AlphaEditHyperParams(model_name="tiny", layers=[0, 1], L2=3, nullspace_energy=0.2, **NAMES["llama"])
    part = EditsPart(hparams.to_dict(), [], {"batches": []}, {})
    describe = get_plugins().methods.get("AlphaEdit").describe
    assert describe is not None
    shown = describe(part, "a test", 1.0).settings
    null_space = {"nullspace_threshold": 0.02, "nullspace_energy": 0.2, "L2": 3.0, "c0_weight": 0.0}
    assert shown == {**null_space, "projector": "fixed", "blue": False, "norm_anchor": None}
