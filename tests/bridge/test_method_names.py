"""How a user names one of EasyEdit's own methods."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import AlphaEditHyperParams, bridge
from easyedit_lifelong.bridge.method_names import easyedit_name, full_name, hparams_folders
from easyedit_lifelong.commands.consecutive import hparams_from_arguments, shipped_hparams
from easyedit_lifelong.commands.options.consecutive import add_arguments
from easyedit_lifelong.errors import HyperParameterError, PluginError
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams
from tests.support.easyedit_main import values_of


def from_arguments(*words: str) -> Any:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(words)
    return hparams_from_arguments(arguments, arguments.method)


def test_the_prefix_is_needed_only_where_a_registered_method_has_the_name() -> None:
    assert full_name("AlphaEdit") == "AlphaEdit"
    assert full_name("EasyEdit/AlphaEdit") == "EasyEdit/AlphaEdit"
    assert full_name("ROME") == full_name("EasyEdit/ROME") == "EasyEdit/ROME"
    assert easyedit_name("EasyEdit/ROME") == easyedit_name("ROME") == "ROME"


def test_the_files_of_a_registered_method_are_never_taken_for_easyedits() -> None:
    assert hparams_folders("AlphaEdit") == ["AlphaEdit"]
    assert hparams_folders("EasyEdit/AlphaEdit") == ["EasyEdit/AlphaEdit"]
    assert hparams_folders("EasyEdit/MEMIT") == hparams_folders("MEMIT") == ["EasyEdit/MEMIT", "MEMIT"]


@pytest.mark.parametrize(
    ("method", "folder"),
    [
        ("AlphaEdit", "AlphaEdit"),
        ("EasyEdit/AlphaEdit", "EasyEdit/AlphaEdit"),
        ("MEMIT", "MEMIT"),
        ("EasyEdit/MEMIT", "MEMIT"),
        ("ROME", "EasyEdit/ROME"),
        ("EasyEdit/ROME", "EasyEdit/ROME"),
    ],
)
def test_shipped_files_are_found_by_either_name(method: str, folder: str) -> None:
    file = shipped_hparams(method, "smollm2-135m")
    assert file.parts[-len(Path(folder).parts) - 1 :] == (*Path(folder).parts, "smollm2-135m.yaml")


def test_both_names_of_easyedits_memit_select_it(easyeditor: Any) -> None:
    for name in ("MEMIT", "EasyEdit/MEMIT"):
        hparams = from_arguments("--method", name)
        assert type(hparams) is easyeditor.MEMITHyperParams
        assert find_method(hparams).hparams_class is easyeditor.MEMITHyperParams


def test_a_file_for_another_method_is_refused(easyeditor: Any) -> None:
    with pytest.raises(HyperParameterError, match=r"--method EasyEdit/ROME: .* is for 'MEMIT'"):
        from_arguments("--method", "EasyEdit/ROME", "--hparams", "MEMIT/smollm2-135m")


def test_the_prefix_with_our_own_name_is_refused(easyeditor: Any) -> None:
    with pytest.raises(PluginError, match="EasyEdit has no method 'MEMIT-native'"):
        bridge.easyedit_method("EasyEdit/MEMIT-native")


def test_alphaedit_is_ours_or_mains(main: Any, tmp_path: Path) -> None:
    assert type(from_arguments("--method", "AlphaEdit")) is AlphaEditHyperParams
    assert type(from_arguments("--method", "EasyEdit/AlphaEdit")) is main.AlphaEditHyperParams
    file = tmp_path / "easyedits.yaml"
    file.write_text(yaml.safe_dump(values_of("AlphaEdit", "llama")))
    assert type(load_hparams(file, easyedits=True)) is AlphaEditHyperParams
    theirs = from_arguments("--method", "EasyEdit/AlphaEdit", "--hparams", str(file))
    assert type(theirs) is main.AlphaEditHyperParams
    assert theirs.alg_name == find_method(theirs).name == "EasyEdit/AlphaEdit"


def test_an_object_of_mains_class_gets_the_prefix_for_the_runs_folder(main: Any) -> None:
    own = main.AlphaEditHyperParams(**values_of("AlphaEdit", "llama"))
    assert bridge.unambiguous_hparams(own).alg_name == "EasyEdit/AlphaEdit"
    assert own.alg_name == "AlphaEdit"
    memit = main.MEMITHyperParams(**values_of("MEMIT", "llama"))
    assert bridge.unambiguous_hparams(memit) is memit
    ours = AlphaEditHyperParams.from_hparams("AlphaEdit/smollm2-135m")
    assert bridge.unambiguous_hparams(ours) is ours
