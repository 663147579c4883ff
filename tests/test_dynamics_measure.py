"""One network after one epoch: the record."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from rows import CLASSES, rows, tensors, trained
from torch import nn

from nci_plugin import Benchmark, Features, PluginError, evaluate
from nci_plugin.benchmarks.benchmark import TEST, TRAIN
from nci_plugin.collapse import measure
from nci_plugin.config import load_detector
from nci_plugin.dynamics import measure as module
from nci_plugin.dynamics.measure import DETECTORS, Meter
from nci_plugin.dynamics.trajectory import Trajectory
from nci_plugin.networks.mlp import MLP
from nci_plugin.report.dynamics_tables import epoch_table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return rows()


@pytest.fixture(scope="module")
def network(benchmark: Benchmark) -> nn.Module:
    return trained(benchmark)


@pytest.fixture(scope="module")
def meter(benchmark: Benchmark) -> Meter:
    return Meter(benchmark, [load_detector(name) for name in DETECTORS], batch_size=7)


def test_aurocs_are_those_of_an_evaluation(benchmark: Benchmark, network: nn.Module, meter: Meter) -> None:
    record = meter(network, 4)
    rows = evaluate(network, benchmark, list(DETECTORS), device="cpu", progress=False).results
    expected = {
        (row.detector, row.group if row.setting == "ood" else f"fsood {row.group}"): row.auroc
        for row in rows
        if row.dataset in ("nearood", "farood")
    }
    assert len(expected) == 4 * len(DETECTORS)
    found = {(name, group): value for name, by_group in record.auroc.items() for group, value in by_group.items()}
    assert found == pytest.approx(expected, abs=1e-3)
    assert record.test_accuracy == pytest.approx(next(row.acc for row in rows if row.setting == "ood"))


def test_collapse_is_that_of_the_training_set(benchmark: Benchmark, network: nn.Module, meter: Meter) -> None:
    record = meter(network, 4, loss="mse")
    images, labels = tensors(benchmark, TRAIN)
    with torch.no_grad():
        logits, features = network(images, return_feature=True)
    means = torch.stack([features[labels == k].mean(0) for k in range(CLASSES)]).double()
    within = sum(((features[labels == k].double() - means[k]) ** 2).sum() for k in range(CLASSES)) / len(labels)
    between = ((means - means.mean(0)) ** 2).sum() / CLASSES
    assert record.collapse["nc1_quotient"] == pytest.approx(float(within / between), rel=1e-5)
    assert record.collapse["mean_norm_l2"] == pytest.approx(float(features.norm(dim=1).mean()), rel=1e-5)
    nearest = torch.cdist(features.double(), means).argmin(1)
    assert record.collapse["nc4_train"] == pytest.approx(float((nearest == logits.argmax(1)).double().mean()))
    assert record.train_loss == pytest.approx(float(((logits - F.one_hot(labels)) ** 2).mean()), rel=1e-5)
    assert (record.epoch, record.phase) == (4, "mse")
    bank = meter.bank(network)
    assert set(measure(bank.statistics, bank.head, training=bank.splits["id/train"]).to_dict()) > set(record.collapse)


def test_ortho_dev_is_followed_by_group(benchmark: Benchmark, network: nn.Module, meter: Meter) -> None:
    """NC5 by hand: cosines of the class means and the mean of a set, absolute, neither centred; means over sets."""
    record = meter(network, 4)

    def features_of(split: str) -> torch.Tensor:
        with torch.no_grad():
            return network(tensors(benchmark, split)[0], return_feature=True)[1].double()

    labels = tensors(benchmark, TRAIN)[1]
    means = torch.stack([features_of(TRAIN)[labels == k].mean(0) for k in range(CLASSES)])
    for group in ("near", "far"):
        values = [
            F.cosine_similarity(means, features_of(f"{group}/{name}").mean(0)[None]).abs().mean()
            for name in benchmark.data_sets(group)
        ]
        assert record.ortho_dev[group] == pytest.approx(float(sum(values) / len(values)), rel=1e-5)
    run = Trajectory("run", {}, [record, replace(record, epoch=5, ortho_dev={})])
    series = run.series("ortho_dev near")
    assert series[0] == record.ortho_dev["near"]
    assert math.isnan(series[1])
    assert "ortho_dev far" in run.to_frame()
    table = epoch_table(run)
    assert {"OrthoDev near", "OrthoDev far"} < set(table.rows[0])


def test_images_are_decoded_once_and_the_network_stays(benchmark: Benchmark, network: nn.Module, meter: Meter) -> None:
    read = sum(source.read for source in benchmark.splits.values())
    network = copy.deepcopy(network).train()
    before = copy.deepcopy(network.state_dict())
    first, again = (meter(network, epoch) for epoch in (1, 2))
    assert sum(source.read for source in benchmark.splits.values()) == read
    assert replace(first, epoch=2) == again
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_benchmark_that_cannot_be_followed(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {name: source for name, source in benchmark.splits.items() if name != TRAIN}
    with pytest.raises(PluginError, match="the split 'id/train' is missing; collapse is measured on it"):
        Meter(replace(benchmark, splits=splits), [])
    given = {**benchmark.splits, TEST: Features(torch.randn(3, 4), torch.arange(3))}
    with pytest.raises(PluginError, match="split 'id/test': features cannot be followed along training"):
        Meter(replace(benchmark, splits=given), [])
    monkeypatch.setattr(module, "MEMORY_BYTES", 1000)
    with pytest.raises(PluginError, match="its decoded images need more than"):
        Meter(benchmark, [])


def test_a_network_of_other_classes(meter: Meter) -> None:
    with pytest.raises(PluginError, match="its head has 5 classes, benchmark 'rows' has 3"):
        meter(MLP(5, 16), 0)


def test_a_detector_that_cannot_be_used_has_no_auroc(
    meter: Meter, network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    dead = copy.deepcopy(network)
    with torch.no_grad():
        dead.hidden[-2].weight.zero_()
        dead.hidden[-2].bias.fill_(-1)  # every feature is 0
    record = meter(dead, 3)
    assert record.collapse["nc1_quotient"] is None
    assert record.collapse["mean_norm_l2"] == 0
    assert set(record.ortho_dev.values()) == {None}
    assert set(record.auroc) == set(DETECTORS)
    unusable = [name for name, by_group in record.auroc.items() if None in by_group.values()]
    assert all(f"epoch 3: no AUROC of '{name}'" in caplog.text for name in unusable[:1])
