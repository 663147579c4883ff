"""``on_device``: what calls for a GPU runs elsewhere, and torch is as before afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nci_plugin
from nci_plugin import PluginError, on_device
from nci_plugin.adapters.openood.device import FACTORIES


def changed() -> list[object]:
    """What the block replaces, as it is now."""
    factories = [getattr(torch, name) for name in FACTORIES]
    return [torch.Tensor.cuda, torch.Tensor.to, torch.load, torch.cuda.FloatTensor, *factories]


def assert_on_cpu(path: Path) -> None:
    tensors = [torch.ones(2).cuda(), torch.ones(2).to("cuda"), torch.zeros(2, device="cuda:1"), torch.load(path)]
    tensors.append(torch.nn.Linear(2, 1).cuda().weight)
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_calls_for_a_gpu_run_on_the_cpu_inside(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "tensor")
    before = changed()
    with on_device("cpu") as device:
        assert device == torch.device("cpu")
        assert_on_cpu(tmp_path / "tensor")
    assert changed() == before


def test_blocks_are_nested_and_end_with_exceptions(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "tensor")
    before = changed()
    with on_device("cpu"):
        outer = changed()
        with pytest.raises(FileNotFoundError), on_device(torch.device("cpu")):
            assert_on_cpu(tmp_path / "nothing")
        assert changed() == outer
        assert_on_cpu(tmp_path / "tensor")
    assert changed() == before


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there(device: str) -> None:
    before = changed()
    with pytest.raises(PluginError, match="device '"), on_device(device):
        pass
    assert changed() == before


def test_it_is_public() -> None:
    assert nci_plugin.on_device is on_device
    assert "on_device" in nci_plugin.__all__
