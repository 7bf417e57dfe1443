"""Damaged and hostile ``.npz`` files of second moments: an error that names the file, or second moments."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyedit_lifelong.covariance.npz import read_moments
from easyedit_lifelong.errors import CovarianceError
from tests.support import thoroughness

MATRIX = np.eye(3, dtype=np.float32) * 5


def write(path: Path, **changes: Any) -> Path:
    arrays = {
        "mom2.constructor": np.array("x"),
        "mom2.count": np.array(5),
        "mom2.mom2": MATRIX,
        "sample_size": np.array(2),
    }
    np.savez(path, **{**arrays, **changes})  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", "<f8", "f2"])
def test_any_byte_order_is_read(tmp_path: Path, dtype: str) -> None:
    moment = read_moments(write(tmp_path / "m.npz", **{"mom2.mom2": MATRIX.astype(dtype)}))
    assert moment.moment.tolist() == np.eye(3).tolist()


REFUSED: dict[str, dict[str, Any]] = {
    "longdouble": {"mom2.mom2": MATRIX.astype(np.longdouble)},
    "complex": {"mom2.mom2": MATRIX.astype(np.complex64)},
    "a count that no integer type holds": {"mom2.count": np.array(1e30)},
    "a count that is infinite": {"mom2.count": np.array(np.inf)},
    "a count that is text": {"mom2.count": np.array("many")},
    "two counts": {"mom2.count": np.array([5, 5])},
    "a negative count": {"mom2.count": np.array(-5)},
    "structured numbers": {"mom2.mom2": np.zeros((3, 3), dtype=[("a", "f4")])},
    "dates": {"mom2.mom2": np.zeros((3, 3), dtype="datetime64[s]")},
    "an empty matrix": {"mom2.mom2": np.zeros((0, 0), dtype=np.float32)},
    "objects": {"mom2.mom2": np.array([[None]], dtype=object)},
}


@pytest.mark.parametrize("content", REFUSED)
def test_content_that_is_no_second_moment_is_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "m.npz", **REFUSED[content])
    with pytest.raises(CovarianceError, match=str(path)):
        read_moments(path)


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(3, 3, 99999999999999999999)", "(-3, 3)", "(True, 3)"])
def test_a_header_that_claims_terabytes_is_refused_without_allocating_them(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (3, 3)})
    prefix = buffer.getvalue()[:8]
    text = header.ljust(118 - 1).encode() + b"\n"
    member = prefix + len(text).to_bytes(2, "little") + text + MATRIX.tobytes()
    source = write(tmp_path / "source.npz")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "m.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, member if name == "mom2.mom2.npy" else old.read(name))
    with pytest.raises(CovarianceError, match=r"m\.npz: "):
        read_moments(tmp_path / "m.npz")


@settings(
    max_examples=1000 if thoroughness.full else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(position=st.integers(0, 10**6), data=st.binary(min_size=0, max_size=6), replaced=st.integers(0, 6))
def test_any_damage_is_found_or_harmless(tmp_path: Path, position: int, data: bytes, replaced: int) -> None:
    content = write(tmp_path / "m.npz").read_bytes()
    at = position % len(content)
    (tmp_path / "m.npz").write_bytes(content[:at] + data + content[at + replaced :])
    try:
        moment = read_moments(tmp_path / "m.npz")
    except CovarianceError as error:
        message = str(error)
    else:
        message = str(tmp_path)
        assert moment.moment.tolist() == np.eye(3).tolist()
    assert str(tmp_path) in message
