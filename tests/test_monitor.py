"""`CollapseMonitor` inside a training loop, which it must not change."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nci_plugin import ClassStatistics, CollapseMonitor, LinearHead, PluginError
from nci_plugin.collapse import measure, nearest_centre
from nci_plugin.dynamics import monitor as module
from nci_plugin.dynamics.trajectory import EpochRecord, read_trajectory
from nci_plugin.features.split import FeatureSplit

CLASSES, PER_CLASS = 3, 12


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.fc = nn.Linear(6, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.features(x)))


class Noisy(Dataset):
    """Draws from all three global generators, as augmentations do."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.read = images, labels, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return self.images[index], int(self.labels[index])


@pytest.fixture
def data() -> Noisy:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES * PER_CLASS) % CLASSES
    return Noisy(torch.randn(len(labels), 3, 8, 8, generator=generator) + labels[:, None, None, None], labels)


@pytest.fixture
def network() -> Iterator[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield Net()


def states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_nothing_of_the_training_changes(network: nn.Module, data: Noisy) -> None:
    network.train()
    network.norm.eval()  # frozen by its user
    F.cross_entropy(network(data.images), data.labels).backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    weights, before = copy.deepcopy(network.state_dict()), states()
    loader = DataLoader(data, 5, shuffle=True)
    CollapseMonitor(network, loader).step(1)
    CollapseMonitor(network, loader, samples_per_class=2).step(1)
    assert states() == before
    assert (network.training, network.norm.training, network.drop.training) == (True, False, True)
    assert all(torch.equal(parameter.grad, old) for parameter, old in zip(network.parameters(), gradients))
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert torch.is_grad_enabled()
    assert not network.fc._forward_pre_hooks


def test_numbers_are_those_of_the_whole_training_set(network: nn.Module, data: Noisy) -> None:
    record = CollapseMonitor(network, DataLoader(data, 5, shuffle=True)).step(3)
    assert isinstance(record, EpochRecord)
    network.eval()
    with torch.no_grad():
        features, logits = network.features(data.images), network(data.images)
    statistics = ClassStatistics(CLASSES, 6).update(features, data.labels)
    expected = measure(statistics, LinearHead.from_linear(network.fc))
    for name in ("nc1_quotient", "nc2_etf_error", "nc3_self_duality", "mean_norm_l2", "mean_norm_l1"):
        assert record.collapse[name] == pytest.approx(getattr(expected, name), rel=1e-5)
    nc4 = nearest_centre(FeatureSplit.of(features, logits, data.labels), statistics).agreement
    assert record.collapse["nc4_train"] == nc4
    assert record.train_loss == pytest.approx(float(F.cross_entropy(logits, data.labels)), rel=1e-5)
    assert record.train_accuracy == pytest.approx(100 * float((logits.argmax(1) == data.labels).float().mean()))
    squares = sum(float(parameter.detach().double().square().sum()) for parameter in network.parameters())
    assert record.weight_norm == pytest.approx(squares**0.5)
    assert record.train_from == f"ce of the training images in eval mode, all of the loader: {len(data)}"


def test_a_balanced_sample_is_the_same_every_time(network: nn.Module, data: Noisy) -> None:
    monitor = CollapseMonitor(network, DataLoader(data, 5, shuffle=True), samples_per_class=4)
    first = monitor.step(0)
    data.read = 0
    again = monitor.step(1)
    assert data.read == 4 * CLASSES  # the sample alone
    assert first is not None
    assert again is not None
    assert first.collapse == again.collapse
    assert again.train_from.endswith(f"4 a class of the loader: {4 * CLASSES}")
    whole = CollapseMonitor(network, DataLoader(data, 5)).step(0)
    assert whole is not None
    assert whole.collapse["nc1_quotient"] != first.collapse["nc1_quotient"]


def test_every_and_the_file(network: nn.Module, data: Noisy, tmp_path: Path) -> None:
    path = tmp_path / "trajectory.jsonl"
    loader = DataLoader(data, 36)
    monitor = CollapseMonitor(network, loader, 5, output=path, run="mine", conditions={"depth": 2})
    assert [epoch for epoch in range(12) if monitor.step(epoch)] == [0, 5, 10]
    trajectory = read_trajectory(path)
    assert (trajectory.run, trajectory.conditions) == ("mine", {"depth": 2})
    assert [record.epoch for record in trajectory.records] == [0, 5, 10]
    again = CollapseMonitor(network, loader, 5, output=path, run="mine", conditions={"depth": 2})
    again.step(15)
    assert [record.epoch for record in again.trajectory.records] == [0, 5, 10, 15]


def test_openoods_batches_and_a_wrapped_network(network: nn.Module, data: Noisy) -> None:
    batches = [{"data": data.images, "label": data.labels, "index": torch.arange(len(data))}]
    plain = CollapseMonitor(network, [(data.images, data.labels)]).step(0)
    wrapped = CollapseMonitor(nn.DataParallel(network), batches).step(0)
    assert plain is not None
    assert wrapped is not None
    assert plain.collapse == wrapped.collapse


def test_too_many_features_for_nc4(network: nn.Module, data: Noisy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEATURE_BYTES", 100)
    record = CollapseMonitor(network, DataLoader(data, 5)).step(0)
    assert record is not None
    assert record.collapse["nc4_train"] is None
    assert record.collapse["nc1_quotient"] is not None


def test_settled(network: nn.Module, data: Noisy) -> None:
    monitor = CollapseMonitor(network, [(data.images, data.labels)])
    assert not monitor.settled("train_loss")
    for epoch, value in enumerate([8.0, 4.0, 2.0, 1.0, 1.01, 0.99, 1.0]):
        monitor._log.records[epoch] = EpochRecord(epoch, train_loss=value, collapse={"nc1_quotient": None})
        assert monitor.settled("train_loss", tolerance=0.02, patience=3) == (epoch == 6), epoch
    assert not monitor.settled("train_loss", tolerance=0.02, patience=4)
    assert monitor.settled("train_loss", tolerance=0.5, patience=3)
    assert not monitor.settled("nc1_quotient")  # no value is no peace
    with pytest.raises(PluginError, match="nc1_quotien"):
        monitor.settled("nc1_quotien")


def test_what_was_measured_is_a_frame_a_figure_and_a_table(network: nn.Module, data: Noisy) -> None:
    monitor = CollapseMonitor(network, [(data.images, data.labels)])
    assert repr(monitor) == "CollapseMonitor(Net, every=1, nothing measured yet)"
    assert "<table" not in monitor._repr_html_()
    with pytest.raises(PluginError, match=r"call step\(\) first"):
        monitor.plot()
    records = [monitor.step(epoch) for epoch in (0, 1, 2)]
    frame = monitor.to_frame()
    assert list(frame.index) == [0, 1, 2]
    assert frame.index.name == "epoch"
    assert [*frame["nc1_quotient"]] == [record.collapse["nc1_quotient"] for record in records if record]
    assert [*frame["train_loss"]] == [record.train_loss for record in records if record]
    assert frame["test_accuracy"].isna().all()
    panels = {axes.get_title(): axes for axes in monitor.plot().axes if axes.get_title()}
    assert [*panels["NC1 (nc1_quotient)"].lines[0].get_ydata()] == [*frame["nc1_quotient"]]
    assert [*panels["NC4 (nc4_train)"].lines[1].get_ydata()] == [1, 1]  # at exact collapse
    assert [axes.get_title() for axes in monitor.plot(["train_loss"]).axes] == ["train_loss"]
    with pytest.raises(PluginError, match="did you mean 'train_loss'"):
        monitor.plot(["train_los"])
    assert repr(monitor) == "CollapseMonitor(Net, every=1, 3 epochs measured, 0 to 2)"
    assert f"{frame['nc1_quotient'][2]:.4g}" in monitor._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "monitor: every: must be a whole number above 0, got 0"),
        ({"samples_per_class": 0}, "monitor: samples_per_class: must be a whole number above 0, got 0"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_options_that_cannot_be_used(options: dict, message: str, network: nn.Module, data: Noisy) -> None:
    with pytest.raises(PluginError, match=message):
        CollapseMonitor(network, [(data.images, data.labels)], **options)


def test_loaders_that_cannot_be_used(network: nn.Module, data: Noisy) -> None:
    with pytest.raises(PluginError, match="the loader gave no batch"):
        CollapseMonitor(network, []).step(0)
    with pytest.raises(PluginError, match="samples_per_class needs a DataLoader of a dataset with a length, got list"):
        CollapseMonitor(network, [(data.images, data.labels)], samples_per_class=2).step(0)
    with pytest.raises(PluginError, match="row 0 holds NaN or infinity"):
        CollapseMonitor(network, [(data.images * float("nan"), data.labels)]).step(0)


def test_what_is_refused_is_named_by_its_row_of_the_whole_pass(network: nn.Module, data: Noisy) -> None:
    loader = DataLoader(data, 5)
    data.labels[13] = CLASSES
    with pytest.raises(PluginError, match=f"monitor: epoch 4: the loader: label {CLASSES} at row 13 is outside 0..2"):
        CollapseMonitor(network, loader).step(4)
    data.labels[13], data.images[13] = 0, float("nan")
    with pytest.raises(PluginError, match="monitor: epoch 4: the loader features: row 13 holds NaN or infinity"):
        CollapseMonitor(network, loader).step(4)
