"""Losses, heads and phases of the small trainings."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nci_plugin import built_in
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.benchmarks.digits import write_digits
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark
from nci_plugin.networks.etf import make_head
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.mlp import ACTIVATIONS, MLP
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.training.losses import FOCUS, LOSSES, SMOOTHING
from nci_plugin.training.train import Recipe, train

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = Recipe(epochs=5, batch_size=16, learning_rate=1e-3, augment=False, optimizer="adam", schedule="cosine")


def twin(name: str, logits: np.ndarray, labels: np.ndarray) -> float:
    """Each loss written out from its paper."""
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(logits.shape[1])[labels]
    values = {
        "ce": -(target * log_p).sum(1),
        "mse": ((logits - target) ** 2).mean(1),
        "label_smoothing": -(((1 - SMOOTHING) * target + SMOOTHING / logits.shape[1]) * log_p).sum(1),
        "focal": -(target * (1 - np.exp(log_p)) ** FOCUS * log_p).sum(1),
    }
    return float(values[name].mean())


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_their_papers(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (50,), generator=generator)
    assert float(LOSSES[name](logits, labels)) == pytest.approx(twin(name, logits.numpy(), labels.numpy()), rel=1e-12)


@pytest.mark.parametrize(("features", "classes"), [(5, 6), (64, 6), (9, 10), (3, 2)])
def test_the_fixed_head_is_a_simplex_etf(features: int, classes: int) -> None:
    layer = make_head(features, classes, "fixed_etf")
    weight = layer.weight.detach().double()
    expected = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(weight @ weight.T, expected, rtol=0, atol=1e-6)
    assert layer.bias is None
    assert not layer.weight.requires_grad


def test_the_fixed_head_needs_room() -> None:
    with pytest.raises(PluginError, match="at least K - 1 features, got 6 classes and 4 features"):
        make_head(4, 6, "fixed_etf")
    with pytest.raises(PluginError, match="head: must be one of learned, fixed_etf, bias_free, got 'etf'"):
        make_head(4, 6, "etf")


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    """48 noisy images (n, 3, 8, 8) of three classes, each bright in rows of its own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    images = 0.2 * torch.randn(48, 3, 8, 8, generator=generator)
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 2] += 1
    return images, labels


def mlp() -> nn.Module:
    return MLP(3, width=16, depth=2)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_minimised(loss: str, data: tuple[Tensor, Tensor]) -> None:
    network, history = train(mlp, *data, replace(QUICK, epochs=30, loss=loss), seed=0)
    assert history[-1]["accuracy"] == 100
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert {entry["phase"] for entry in history} == {loss}
    with torch.no_grad():
        now = float(LOSSES[loss](network(data[0]), data[1]))
    assert now == pytest.approx(history[-1]["loss"], rel=0.2)


def test_two_phases(data: tuple[Tensor, Tensor]) -> None:
    """The first phase is the same training as cross-entropy alone for so many epochs."""
    seen: dict[int, list[Tensor]] = {}

    def look(network: nn.Module, entry: dict) -> None:
        seen[entry["epoch"]] = [parameter.detach().clone() for parameter in network.parameters()]

    _, history = train(mlp, *data, replace(QUICK, loss="ce_then_mse"), seed=0, on_epoch=look)
    alone, alone_history = train(mlp, *data, replace(QUICK, epochs=2), seed=0)
    assert [entry["phase"] for entry in history] == ["ce", "ce", "mse", "mse", "mse"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5]
    assert history[:2] == alone_history
    assert all(torch.equal(a, b) for a, b in zip(seen[2], alone.parameters()))
    assert history[2]["loss"] < 1  # another unit: a mean over classes of squares


@pytest.mark.parametrize(
    "network", [lambda: MLP(3, 16, head="fixed_etf"), lambda: ResNet18_32x32(3, 2, 1, "fixed_etf")]
)
def test_a_fixed_head_stays(network: type, data: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    trained, _ = train(network, *data, replace(QUICK, epochs=2, weight_decay=0.1), seed=3)
    torch.manual_seed(3)
    assert torch.equal(trained.fc.weight, network().fc.weight)
    assert not torch.equal(next(trained.parameters()), next(network().parameters()))
    assert LinearHead.from_linear(trained.fc).bias.eq(0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp(activation: str) -> None:
    network = MLP(4, width=12, depth=3, activation=activation, image_size=8)
    logits, features = network(torch.randn(5, 3, 32, 32), return_feature=True)
    assert features.shape == (5, 12)
    assert torch.equal(network.fc(features), logits)
    assert len([layer for layer in network.hidden if isinstance(layer, nn.Linear)]) == 3
    assert isinstance(network.hidden[-1], ACTIVATIONS[activation])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "MLP: depth: must be a whole number above 0, got 0"),
        ({"activation": "sine"}, "MLP: activation: must be one of relu, gelu, silu, tanh, got 'sine'"),
    ],
)
def test_mlp_that_cannot_be(arguments: dict, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        MLP(**arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "hinge"}, "recipe: loss: must be one of ce, mse, label_smoothing, focal, ce_then_mse, got 'hinge'"),
        ({"schedule": "step"}, "recipe: schedule: must be one of one_cycle, cosine, got 'step'"),
        ({"loss": "ce_then_mse", "epochs": 1}, "recipe: epochs: must be at least 2 for the loss ce_then_mse, got 1"),
    ],
)
def test_recipe_that_cannot_be_used(values: dict, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Recipe(**values)


# -------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    write_digits(root)
    return root


def command(data_root: Path, output: Path, *arguments: str) -> int:
    fast = ["--regime", "overfit", "--network", "mlp", "--width", "8", "--depth", "1", "--device", "cpu"]
    return main(["train", "digits", *fast, "--data-root", str(data_root), "--output", str(output), *arguments])


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_checkpoints_of_epochs_and_their_history(data_root: Path, tmp_path: Path) -> None:
    arguments = ["--loss", "ce_then_mse", "--head", "fixed_etf", "--epochs", "5", "--save-every", "2", "--seeds", "3"]
    assert command(data_root, tmp_path / "a", *arguments) == 0
    there = content(tmp_path / "a")
    names = ["s3/best.ckpt", "s3/history.jsonl", "s3/model_epoch2.ckpt", "s3/model_epoch4.ckpt", "training.json"]
    assert sorted(there) == names
    history = [json.loads(line) for line in there["s3/history.jsonl"].splitlines()]
    assert [(entry["epoch"], entry["phase"]) for entry in history] == list(zip(range(1, 6), ["ce"] * 2 + ["mse"] * 3))
    told = json.loads(there["training.json"])
    assert told["network_arguments"] == {"width": 8, "depth": 1, "head": "fixed_etf"}
    assert (told["recipe"]["loss"], told["recipe"]["epochs"]) == ("ce_then_mse", 5)


def test_an_interrupted_training_ends_in_the_same_bytes(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--epochs", "3", "--save-every", "1", "--seeds", "0", "1"]
    assert command(data_root, tmp_path / "whole", *arguments) == 0
    replace_file, left = os.replace, [4]

    def killed(*paths: str) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        replace_file(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert command(data_root, tmp_path / "cut", *arguments) == 130
    assert not (tmp_path / "cut" / "s0" / "best.ckpt").exists()
    assert (tmp_path / "cut" / "s0" / "model_epoch1.ckpt").exists()
    assert command(data_root, tmp_path / "cut", *arguments) == 0
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    with monkeypatch.context() as patch:  # all is there: nothing is trained
        patch.setattr(built_in, "train", None)
        assert command(data_root, tmp_path / "cut", *arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--network", "resnet", "--activation", "gelu"],
            "network 'resnet': unknown key 'activation'; allowed: width, depth, head",
        ),
        (["--network", "vgg"], "unknown network 'vgg'; known: mlp, resnet"),
        (["--width", "0"], "MLP: width: must be a whole number above 0, got 0"),
        (["--loss", "hinge"], "recipe: loss: must be one of"),
        (["--save-every", "0"], "save every: must be a whole number above 0, got 0"),
        (["--seeds", "-1"], "--seeds: must be a whole number, at least 0, got -1"),
    ],
)
def test_options_that_cannot_be_used(
    arguments: list[str], message: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(data_root, tmp_path / "none", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_another_training_in_the_same_directory(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(data_root, tmp_path, "--epochs", "1", "--seeds", "0") == 0
    before = content(tmp_path)
    assert command(data_root, tmp_path, "--epochs", "2", "--seeds", "1") == 2
    assert "holds another training" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_defaults_train_the_network_of_before() -> None:
    """The options' defaults change neither the network nor the recipe."""
    benchmark = load_benchmark("digits")
    same = built_in.with_network(benchmark, "resnet", {})
    assert isinstance(same, Benchmark)
    assert (same.network, dict(same.network_arguments)) == (benchmark.network, dict(benchmark.network_arguments))
    assert isinstance(same.splits["id/train"], ImageList)
    assert Recipe() == Recipe(12, 32, 0.03, 0.9, 5e-4, True, "sgd", "one_cycle", "ce")


def test_a_head_without_bias_is_learned(data: tuple[Tensor, Tensor]) -> None:
    network, _ = train(lambda: MLP(3, 16, head="bias_free"), *data, replace(QUICK, epochs=2), seed=3)
    torch.manual_seed(3)
    assert network.fc.bias is None
    assert not torch.equal(network.fc.weight, MLP(3, 16, head="bias_free").fc.weight)
    assert LinearHead.from_linear(network.fc).bias.eq(0).all()
