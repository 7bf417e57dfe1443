"""Methods of this package in EasyEdit's ``ALG_DICT`` and in its lists of names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from easyedit_lifelong.bridge import base_editor, install
from easyedit_lifelong.bridge.registration import dispatcher
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.methods.base import EditMethod
from tests.support.toy_method import Toy, ToyHyperParams


@dataclass
class TheirHyperParams:
    """Hyperparameters of EasyEdit's own method."""


def apply(*args: Any, **kwargs: Any) -> Any:
    """Return the arguments."""
    return "ours", args, kwargs


OURS = EditMethod("NAME", ToyHyperParams, apply)


def test_the_hyperparameter_class_selects_the_function() -> None:
    dispatch = dispatcher(OURS, lambda *args, **kwargs: ("theirs", args, kwargs), keep_original_weight=False)
    ours = ToyHyperParams("model")
    assert dispatch("m", "t", [1], ours, copy=False) == ("ours", ("m", "t", [1], ours), {"copy": False})
    theirs = TheirHyperParams()
    result = dispatch("m", "t", [1], theirs, keep_original_weight=False)
    assert result == ("theirs", ("m", "t", [1], theirs), {"keep_original_weight": False})


def test_a_subclass_of_our_hyperparameters_selects_our_function() -> None:
    class Derived(ToyHyperParams):
        pass

    assert dispatcher(OURS, None, keep_original_weight=False)("m", "t", [1], Derived("model"))[0] == "ours"


@pytest.mark.parametrize("keep", [True, False])
def test_the_dispatcher_sets_keep_original_weight(keep: bool) -> None:
    dispatch = dispatcher(OURS, None, keep_original_weight=keep)
    arguments = dispatch("m", "t", [1], ToyHyperParams("model"), keep_original_weight=False)[2]
    assert arguments["keep_original_weight"] is keep


def test_unknown_hyperparameters_are_refused() -> None:
    with pytest.raises(HyperParameterError, match="must be a ToyHyperParams, not a TheirHyperParams"):
        dispatcher(OURS, None, keep_original_weight=False)("m", "t", [1], TheirHyperParams())


def test_easyedits_modules_share_one_dictionary_of_methods(easyeditor: Any, toy: Toy) -> None:
    algorithms = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    assert algorithms is importlib.import_module("easyeditor.editors.editor").ALG_DICT
    assert {"FT", "TOY", "GRACE"} <= set(algorithms)


def test_registering_again_changes_nothing(easyeditor: Any, toy: Toy) -> None:
    algorithms = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    editor_init = easyeditor.BaseEditor.__init__
    before = dict(algorithms)
    install()
    assert algorithms == before
    assert easyeditor.BaseEditor.__init__ is editor_init


def test_easyedits_method_of_the_same_name_can_still_be_called(
    easyeditor: Any, add_method: Callable[..., EditMethod], monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithms = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    monkeypatch.setitem(algorithms, "KN", lambda *args, **kwargs: "theirs")
    add_method(EditMethod("KN", ToyHyperParams, apply))
    assert algorithms["KN"](None, None, [{}], TheirHyperParams()) == "theirs"
    assert algorithms["KN"](None, None, [{}], ToyHyperParams("x"))[0] == "ours"


def test_batchable_methods_are_in_easyedits_list_of_batch_methods(
    easyeditor: Any, toy: Toy, add_method: Callable[..., EditMethod]
) -> None:
    editors = importlib.import_module("easyeditor.editors.batch_editor")
    add_method(EditMethod("SINGLE", type("SingleHyperParams", (), {}), apply))
    is_listed = editors.BatchEditor.is_batchable_method
    assert [is_listed(name) for name in ("TOY", "SINGLE", "FT", "KN")] == [True, False, True, False]


def test_other_methods_are_in_easyedits_list_of_single_edit_methods(
    release: Any, toy: Toy, add_method: Callable[..., EditMethod]
) -> None:
    editors = importlib.import_module("easyeditor.editors.singleton_editor")
    add_method(EditMethod("SINGLE", type("SingleHyperParams", (), {}), apply))
    is_listed = editors.SingletonEditor.is_singleton_method
    assert [is_listed(name) for name in ("TOY", "SINGLE", "FT", "KN")] == [False, True, False, True]


def test_easyedits_single_edit_method_refuses_a_batch(easyeditor: Any) -> None:
    dispatch = dispatcher(EditMethod("KN", ToyHyperParams, apply), lambda *a, **k: "theirs", keep_original_weight=True)
    assert dispatch(None, None, [{}], TheirHyperParams()) == "theirs"
    with pytest.raises(EditError, match="EasyEdit's own KN edits one request at a time"):
        dispatch(None, None, [{}, {}], TheirHyperParams())


def test_base_editor_is_easyedits_class(easyeditor: Any) -> None:
    assert base_editor() is easyeditor.BaseEditor


def test_mains_grace_can_still_be_called(main: Any) -> None:
    module = importlib.import_module("easyeditor.models.grace.grace_main")
    entry = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT["GRACE"]
    assert entry is not module.apply_grace_to_model
    assert module.apply_grace_to_model in [cell.cell_contents for cell in entry.__closure__]
