"""Names of packages that are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from easyedit_lifelong import bridge, edits


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'easyedit_lifelong\.edits' has no attribute 'save_edit'"):
        edits.save_edit  # noqa: B018


@pytest.mark.parametrize("package", [edits, bridge])
def test_all_names_of_a_package_can_be_imported_and_are_listed(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert callable(getattr(package, name))
        assert name in dir(package)


def test_a_package_imports_a_name_when_it_is_used() -> None:
    script = (
        "import sys\nfrom easyedit_lifelong import edits\nassert 'torch' not in sys.modules\n"
        "edits.inspect_edits\nassert 'easyedit_lifelong.edits.inspect_folder' in sys.modules\n"
        "assert 'inspect_edits' in vars(edits)\nassert 'easyedit_lifelong.edits.export' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
