"""A device setting names a device of the machine or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import DeviceError
from easyedit_lifelong.models.devices import available_devices, resolve_device


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing but a CPU."""
    set_devices(monkeypatch, gpus=0, mps=False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two CUDA devices, the second one current."""
    set_devices(monkeypatch, gpus=2, mps=False)


def set_devices(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: gpus - 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("setting", [None, "auto", "", "cpu", 0, "0", 3, torch.device("cpu")])
def test_without_a_gpu_auto_and_numbers_mean_the_cpu(setting: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A number means the CPU as well, because every EasyEdit YAML has one. A warning says so."""
    assert resolve_device(setting) == torch.device("cpu")
    expected = f"device: {setting} is a CUDA index, but CUDA isn't available; using the CPU"
    is_number = str(setting).isdigit()
    assert [record.getMessage() for record in caplog.records] == ([expected] if is_number else [])


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("setting", "device"),
    [
        (None, "cuda:1"),
        ("auto", "cuda:1"),
        ("cuda", "cuda:1"),
        (0, "cuda:0"),
        ("0", "cuda:0"),
        (" 1 ", "cuda:1"),
        ("cuda:0", "cuda:0"),
        (torch.device("cuda", 0), "cuda:0"),
        (torch.device("cuda"), "cuda:1"),
        ("cpu", "cpu"),
    ],
)
def test_settings_name_the_right_gpu(setting: Any, device: str) -> None:
    assert resolve_device(setting) == torch.device(device)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("setting", ["cuda", "cuda:0", "mps", torch.device("cuda", 0)])
def test_a_device_that_the_machine_lacks_is_refused_with_the_alternatives(setting: Any) -> None:
    with pytest.raises(DeviceError, match=r"isn't on this machine. Use one of: auto, cpu\.") as caught:
        resolve_device(setting)
    assert str(setting) in str(caught.value)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("setting", [2, "2", "cuda:2"])
def test_a_gpu_number_out_of_range_is_refused_with_the_alternatives(setting: Any) -> None:
    """A number means the CPU only on a machine without CUDA."""
    with pytest.raises(DeviceError, match=r"Use one of: auto, cuda:0, cuda:1, cpu\."):
        resolve_device(setting)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize("setting", ["gpu", "cuda:x", -1, "-1", "CUDA 0", "none of these"])
def test_a_setting_that_is_no_device_is_refused(setting: Any) -> None:
    with pytest.raises(DeviceError, match="is not a device") as caught:
        resolve_device(setting)
    assert repr(setting) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_means_mps_where_it_is_the_only_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    set_devices(monkeypatch, gpus=0, mps=True)
    assert resolve_device("auto") == torch.device("mps")
    assert available_devices() == ["mps", "cpu"]


def test_a_device_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        resolve_device("nowhere")
