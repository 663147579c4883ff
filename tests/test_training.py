"""Training of the small networks, and the network ``ResNet18_32x32``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nci_plugin import built_in
from nci_plugin.adapters.openood.roots import Roots
from nci_plugin.checks import PluginError
from nci_plugin.cli.groups import Data, Network, Pass
from nci_plugin.cli.network import Job
from nci_plugin.config import load_benchmark
from nci_plugin.inputs import Inputs
from nci_plugin.networks.mlp import MLP
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.training.train import SHIFT, Recipe, _shift, save_checkpoint, train

BATCH_NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
FIRST_NAMES = [
    "conv1.weight",
    *(f"bn1.{name}" for name in BATCH_NORM),
    "layer1.0.conv1.weight",
    *(f"layer1.0.bn1.{name}" for name in BATCH_NORM),
    "layer1.0.conv2.weight",
    *(f"layer1.0.bn2.{name}" for name in BATCH_NORM),
]
BLOCK_WITH_SHORTCUT = [
    "layer2.0.conv1.weight",
    *(f"layer2.0.bn1.{name}" for name in BATCH_NORM),
    "layer2.0.conv2.weight",
    *(f"layer2.0.bn2.{name}" for name in BATCH_NORM),
    "layer2.0.shortcut.0.weight",
    *(f"layer2.0.shortcut.1.{name}" for name in BATCH_NORM),
]
FAST = Recipe(epochs=3, batch_size=16, learning_rate=0.05)


class WithDropout(nn.Module):
    """Draws from PyTorch's global generator in every training step."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * 32 * 32, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def tiny() -> nn.Module:
    return ResNet18_32x32(num_classes=2, width=2)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    """64 noisy images (n, 3, 32, 32) of two classes: bright above or bright below."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    images = 0.3 * torch.randn(64, 3, 32, 32, generator=generator)
    images[labels == 0, :, :16] += 1
    images[labels == 1, :, 16:] += 1
    return images, labels


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values())
    return all(torch.equal(a, b) for a, b in pairs)


def test_parameters_are_named_as_in_openood() -> None:
    network = ResNet18_32x32()
    state = network.state_dict()
    names = list(state)
    assert names[: len(FIRST_NAMES)] == FIRST_NAMES
    assert [name for name in names if name.startswith("layer2.0.")] == BLOCK_WITH_SHORTCUT
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert len(names) == 122
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["fc.weight"].shape == (10, 512)
    assert type(network).__name__ == "ResNet18_32x32"


def test_features_are_the_head_s_input_and_never_negative() -> None:
    network = ResNet18_32x32(num_classes=6, width=4).eval()
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, features = network(images, return_feature=True)
    assert network.feature_size == 32
    assert features.shape == (5, 32)
    assert features.min() >= 0
    assert torch.equal(network.fc(features), logits)
    assert torch.equal(network(images), logits)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": 1.5}])
def test_network_of_no_size(arguments: dict) -> None:
    with pytest.raises(PluginError, match=r"ResNet18_32x32: \w+: must be a whole number above 0"):
        ResNet18_32x32(**arguments)


def test_loss_goes_down_and_the_classes_are_learnt(data: tuple[Tensor, Tensor]) -> None:
    network, history = train(tiny, *data, Recipe(epochs=5, batch_size=16, learning_rate=0.05), seed=0)
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["accuracy"] > 90
    assert not network.training


@pytest.mark.parametrize("factory", [tiny, WithDropout])
def test_reproducible_for_a_seed(data: tuple[Tensor, Tensor], factory: type) -> None:
    first, first_history = train(factory, *data, FAST, seed=1)
    torch.rand(7)  # the caller's state has no part in it
    again, again_history = train(factory, *data, FAST, seed=1)
    other, _ = train(factory, *data, FAST, seed=2)
    assert same(first, again)
    assert first_history == again_history
    assert not same(first, other)


@pytest.mark.parametrize("factory", [tiny, WithDropout])
def test_global_random_state_is_untouched(data: tuple[Tensor, Tensor], factory: type) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(factory, *data, FAST, seed=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002


def test_callback_sees_every_epoch_and_changes_nothing(data: tuple[Tensor, Tensor]) -> None:
    seen = []

    def look(network: nn.Module, entry: dict) -> None:
        seen.append((network.training, entry["epoch"]))
        network.train()  # careless, but harmless

    watched, history = train(tiny, *data, FAST, seed=0, on_epoch=look)
    alone, alone_history = train(tiny, *data, FAST, seed=0)
    assert seen == [(False, 1), (False, 2), (False, 3)]
    assert history == alone_history
    assert same(watched, alone)
    assert not watched.training


def test_weights_come_back_contiguous(data: tuple[Tensor, Tensor]) -> None:
    network, _ = train(tiny, *data, Recipe(epochs=1, batch_size=64), seed=0)
    assert all(parameter.is_contiguous() for parameter in network.parameters())


def test_augmentation_shifts_each_image_by_up_to_four_pixels() -> None:
    images = torch.full((200, 2, 16, 16), -1.0)
    images[:, 1] = -2.0  # each channel has its own black
    images[:, :, 8, 8] = 5.0
    images[:, :, 8, 9] = 6.0
    shifted = _shift(images, torch.tensor([-1.0, -2.0]).view(1, 2, 1, 1), torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    offsets = set()
    for image in shifted:
        (row, column), *more = (image[0] == 5).nonzero().tolist()
        assert not more
        expected = torch.tensor([-1.0, -2.0]).view(2, 1, 1).repeat(1, 16, 16)
        expected[:, row, column], expected[:, row, column + 1] = 5, 6
        assert torch.equal(image, expected)
        offsets.add((row - 8, column - 8))
    assert len(offsets) > 60
    for axis in (0, 1):
        assert {offset[axis] for offset in offsets} == set(range(-SHIFT, SHIFT + 1))


def test_checkpoint_is_a_state_dict_without_code(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network, _ = train(tiny, *data, Recipe(epochs=1), seed=0)
    path = tmp_path / "s0" / "best.ckpt"
    save_checkpoint(network, path)
    state = torch.load(path, weights_only=True)
    loaded = tiny()
    loaded.load_state_dict(state)
    assert same(loaded, network)
    assert os.listdir(path.parent) == ["best.ckpt"]


def test_interrupted_saving_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.ckpt"
    save_checkpoint(tiny(), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PluginError, match=r"cannot write '.*best.ckpt': No space left on device; free space"):
        save_checkpoint(tiny(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.ckpt"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs: must be a whole number above 0, got 0"),
        ({"batch_size": 2.5}, "batch_size: must be a whole number above 0, got 2.5"),
        ({"learning_rate": float("nan")}, "learning_rate: must be a finite number above 0, got nan"),
        ({"momentum": 1.0}, "momentum: must be at least 0 and below 1, got 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay: must be at least 0, got -0.0001"),
        ({"augment": 1}, "augment: must be one of True, False, got 1"),
        ({"optimizer": "lion"}, "optimizer: must be one of sgd, adam, got 'lion'"),
    ],
)
def test_recipe_that_cannot_be_used(values: dict, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Recipe(**values)


def test_data_that_cannot_be_trained_on(data: tuple[Tensor, Tensor]) -> None:
    images, labels = data
    with pytest.raises(PluginError, match=r"expected images \(n, 3, H, W\) and labels \(n,\)"):
        train(tiny, images, labels[1:], FAST, seed=0)
    with pytest.raises(PluginError, match=r"training: label 3 at row 0 is outside 0\.\.1"):
        train(tiny, images, labels + 3, FAST, seed=0)
    with pytest.raises(PluginError, match=r"the loss must stay finite, got nan in epoch 1; lower the recipe"):
        train(tiny, images * float("nan"), labels, FAST, seed=0)


def test_the_digits_checkpoints_are_named_after_their_recipe() -> None:
    """Another recipe must not find the checkpoints of an older one."""
    benchmark, recipe = load_benchmark("digits"), Recipe()
    width = benchmark.network_arguments["width"]
    expected = f"digits_resnet18_32x32_w{width}_base_e{recipe.epochs}_lr{recipe.learning_rate}_default"
    assert benchmark.checkpoints == expected


def test_networks_that_train_made_are_loaded_as_what_they_are(tmp_path: Path) -> None:
    """``nci-ood train digits --network mlp`` ends with the next command, which names the checkpoints alone."""
    benchmark = load_benchmark("digits")
    small = built_in.with_network(benchmark, "mlp", {"width": 8, "depth": 1})
    says = {"benchmark": "digits", "network": "mlp", "network_arguments": dict(small.network_arguments)}
    (tmp_path / "training.json").write_text(json.dumps(says))
    checkpoint = tmp_path / "s0" / "best.ckpt"
    save_checkpoint(built_in.build_benchmark_network(small), checkpoint)
    for path in (tmp_path, checkpoint):
        job = Job.of("digits", Network(ckpt_path=path), Data(), Pass(device="cpu"))
        loaded = job.load(Inputs(benchmark, Roots(tmp_path, tmp_path), {}, path, {"s0": checkpoint}, ""))
        assert isinstance(loaded.by_seed["s0"], MLP)
        assert (job.factory(loaded.inputs.benchmark), job.arguments(loaded.inputs.benchmark)) == (
            "mlp",
            small.network_arguments,
        )
        own = Job.of("digits", Network(net="torchvision:resnet18", ckpt_path=path), Data(), Pass(device="cpu"))
        assert own.as_trained(benchmark) is benchmark
    (tmp_path / "training.json").write_text(json.dumps({**says, "network": "evil.py:make"}))
    with pytest.raises(PluginError, match=r"training.json: network: factory: a file of data names a network only as"):
        job.as_trained(benchmark)
