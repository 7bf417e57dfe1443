"""Files of MEMIT's format are written and read, and invalid ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from easyedit_lifelong.covariance.npz import check_writable, read_moments, write_moments
from easyedit_lifelong.errors import CovarianceError

D = 12


@pytest.fixture
def total() -> torch.Tensor:
    keys = torch.randn(40, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return keys.t() @ keys


def _published(path: Path, **changes: Any) -> Path:
    keys = np.random.default_rng(0).standard_normal((40, D)).astype(np.float32)
    contents: dict[str, Any] = {
        "mom2.constructor": "util.runningstats.SecondMoment()",
        "mom2.count": 40,
        "mom2.mom2": keys.T @ keys,
        "sample_size": 7,
    }
    contents.update(changes)
    np.savez(path, **{key: value for key, value in contents.items() if value is not None})
    return path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_written_moments_are_read_back(tmp_path: Path, total: torch.Tensor, dtype: str) -> None:
    path = tmp_path / "new" / "folder" / "m.npz"
    sizes: list[int] = []
    write_moments(path, total, 40, 7, dtype, before=sizes.append)
    moment = read_moments(path, D, 7)
    assert (moment.count, moment.source, moment.moment.dtype) == (40, str(path), torch.float32)
    torch.testing.assert_close(moment.moment, (total / 40).float(), rtol=1e-6, atol=1e-6)
    assert sizes == [path.stat().st_size]
    assert [p.name for p in path.parent.iterdir()] == ["m.npz"]


def test_a_written_file_has_the_members_of_memits_format(tmp_path: Path, total: torch.Tensor) -> None:
    write_moments(tmp_path / "m.npz", total, 40, 7, "float32")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"mom2.constructor", "mom2.count", "mom2.mom2", "sample_size"}
        assert archive["mom2.mom2"].dtype == np.float32
        assert int(archive["sample_size"]) == 7
        np.testing.assert_allclose(archive["mom2.mom2"], total.numpy(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_published_files_of_every_precision_are_read(tmp_path: Path, dtype: Any) -> None:
    keys = np.random.default_rng(0).standard_normal((40, D))
    path = _published(tmp_path / "m.npz", **{"mom2.mom2": (keys.T @ keys).astype(dtype)})
    expected = torch.from_numpy(keys.T @ keys / 40).float()
    torch.testing.assert_close(read_moments(path, D).moment, expected, rtol=1e-2, atol=1e-2)


def test_a_file_without_a_sample_size_is_read(tmp_path: Path) -> None:
    assert read_moments(_published(tmp_path / "a.npz", sample_size=None), D, 7).count == 40
    # EasyEdit writes this NaN where no sample size is given
    null = np.frombuffer(bytes.fromhex("fff8000000000002"), dtype=">f8")[0].astype(np.float64)
    assert read_moments(_published(tmp_path / "b.npz", sample_size=null), D, 7).count == 40


def _asymmetric() -> np.ndarray:
    matrix = np.eye(D, dtype=np.float32)
    matrix[0, 1] = 0.5
    return matrix


def _with_nan() -> np.ndarray:
    matrix = np.eye(D, dtype=np.float32)
    matrix[3, 4] = matrix[4, 3] = np.nan
    return matrix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mom2.count": None}, r"lacks 'mom2.count'"),
        ({"mom2.mom2": None}, r"lacks 'mom2.mom2'"),
        ({"mom2.count": 0}, "greater than 0"),
        ({"mom2.count": "many"}, "not a number"),
        ({"mom2.mom2": np.eye(D + 1, dtype=np.float32)}, r"13x13.*size 12"),
        ({"mom2.mom2": np.ones((D, 3), dtype=np.float32)}, "12x3"),
        ({"mom2.mom2": np.ones(D, dtype=np.float32)}, "another model"),
        ({"mom2.mom2": np.eye(D, dtype=np.int64)}, "int64"),
        ({"mom2.mom2": _asymmetric()}, "isn't symmetric"),
        ({"mom2.mom2": _with_nan()}, "NaN or infinity"),
        ({"mom2.mom2": -np.eye(D, dtype=np.float32)}, "diagonal isn't positive"),
        ({"mom2.mom2": np.zeros((D, D), dtype=np.float32)}, "diagonal isn't positive"),
        ({"sample_size": 8}, r"holds 8 samples, but 7"),
        ({"mom2.mom2": np.array([[object()]], dtype=object)}, "truncated or no .npz"),
    ],
)
def test_invalid_contents_are_refused_with_the_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = _published(tmp_path / "odd.npz", **changes)
    with pytest.raises(CovarianceError, match=message) as caught:
        read_moments(path, D, 7)
    assert str(path) in str(caught.value)


def test_a_file_truncated_at_any_byte_is_refused(tmp_path: Path, total: torch.Tensor) -> None:
    write_moments(tmp_path / "complete.npz", total, 40, 7, "float32")
    data = (tmp_path / "complete.npz").read_bytes()
    for keep in (0, 1, 10, 100, len(data) // 2, len(data) - 1):
        path = tmp_path / f"{keep}.npz"
        path.write_bytes(data[:keep])
        with pytest.raises(CovarianceError, match=f"{keep}.npz.*truncated"):
            read_moments(path, D)


def test_a_flipped_byte_is_detected(tmp_path: Path, total: torch.Tensor) -> None:
    path = tmp_path / "m.npz"
    write_moments(path, total, 40, 7, "float32")
    data = bytearray(path.read_bytes())
    data[data.find(b"mom2.mom2") + 300] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(CovarianceError, match=r"truncated or no .npz"):
        read_moments(path, D)


def test_text_and_plain_arrays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_text("Not found\n")
    np.save(tmp_path / "a.npy", np.eye(D))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    for name in ("t.npz", "a.npz"):
        with pytest.raises(CovarianceError, match=name):
            read_moments(tmp_path / name, D)


def test_an_existing_file_is_never_replaced(tmp_path: Path, total: torch.Tensor) -> None:
    path = _published(tmp_path / "m.npz")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_moments(path, total, 40, 7, "float32")
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_no_file(tmp_path: Path, total: torch.Tensor) -> None:
    def fail(size: int) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_moments(tmp_path / "m.npz", total, 40, 7, "float32", before=fail)
    assert list(tmp_path.iterdir()) == []


def test_sums_that_overflow_float32_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match="don't fit float32"):
        write_moments(tmp_path / "m.npz", torch.eye(2, dtype=torch.float64) * 1e300, 1, 1, "float32")


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CovarianceError, match=r"file/stats.*Name another folder"):
        check_writable(tmp_path / "file" / "stats")
