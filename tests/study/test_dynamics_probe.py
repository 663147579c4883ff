"""The robustness probe of a network, and interventions in its training."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from intervention import Intervention, recovery
from probe import Attack, ProbingMeter, probe
from rows import CLASSES, NORMALIZATION, rows, tensors, trained
from torch import Tensor, nn

from nci_plugin import Benchmark, DetectorSetup, PluginError
from nci_plugin.benchmarks.benchmark import TEST, TRAIN
from nci_plugin.config import load_detector
from nci_plugin.dynamics.measure import DETECTORS
from nci_plugin.networks.mlp import MLP
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.training.train import Recipe, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return rows()


@pytest.fixture(scope="module")
def network(benchmark: Benchmark) -> nn.Module:
    return trained(benchmark)


@pytest.fixture(scope="module")
def meter(benchmark: Benchmark) -> ProbingMeter:
    attacks = [Attack("fgsm", 2), Attack("fgsm", 16), Attack("pgd", 16)]
    return ProbingMeter(benchmark, [load_detector(name) for name in DETECTORS], batch_size=7, attacks=attacks)


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_attacks_stay_in_the_ball_and_are_images(name: str, benchmark: Benchmark, network: nn.Module) -> None:
    images, labels = tensors(benchmark, TEST)
    attacked = Attack(name, 12)(network, images, labels, NORMALIZATION)
    mean, deviation = (torch.tensor(row).view(3, 1, 1) for row in NORMALIZATION)
    pixels, before = attacked * deviation + mean, images * deviation + mean
    assert float((pixels - before).abs().max()) == pytest.approx(12 / 255, abs=1e-6)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6

    def loss(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return F.cross_entropy(network(batch), labels, reduction="none")

    assert (loss(attacked) >= loss(images)).float().mean() > 0.95
    assert torch.equal(attacked, Attack(name, 12)(network, images, labels, NORMALIZATION))
    alone = Attack("fgsm", 12)(network, images[:1], labels[:1], NORMALIZATION)
    # Its batch changes the last bits of a gradient, and with them the sign of a few that are nearly zero.
    assert name == "pgd" or (alone != attacked[:1]).float().mean() < 0.01


def test_fgsm_is_one_signed_step(benchmark: Benchmark, network: nn.Module) -> None:
    images, labels = (each[:4] for each in tensors(benchmark, TEST))
    given = images.clone().requires_grad_()
    F.cross_entropy(network(given), labels).backward()
    network.zero_grad()
    mean, deviation = (torch.tensor(row).view(3, 1, 1) for row in NORMALIZATION)
    expected = ((images * deviation + mean) + 8 / 255 * given.grad.sign()).clamp(0, 1)
    attacked = Attack("fgsm", 8)(network, images, labels, NORMALIZATION) * deviation + mean
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-6)


def test_probe_of_a_network(meter: ProbingMeter, network: nn.Module) -> None:
    network = copy.deepcopy(network).train()
    record = meter.probed(network, 1)
    assert dataclasses.replace(record, probe=None) == meter(network, 1)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    answers = record.probe
    assert answers is not None
    assert list(answers) == ["clean", "fgsm 2/255", "fgsm 16/255", "pgd 16/255"]
    accuracies = [answers[name]["accuracy"] for name in ("clean", "fgsm 2/255", "fgsm 16/255")]
    assert accuracies == sorted(accuracies, reverse=True)
    assert answers["fgsm 16/255"]["nc1_quotient"] > answers["clean"]["nc1_quotient"]
    for attack in list(answers)[1:]:
        assert set(answers[attack]["auroc"]) == set(DETECTORS)
        assert all(0 <= value <= 100 for value in answers[attack]["auroc"].values())
    msp = [answers[name]["auroc"]["msp"] for name in ("fgsm 2/255", "fgsm 16/255")]
    assert msp[1] > msp[0] > 50


def test_what_is_probed_of_contestants(
    benchmark: Benchmark, network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """Each by its own name; a method that scores whole benchmarks is named and left out."""
    setups = [load_detector("msp"), DetectorSetup(load_detector("msp").detector, name="mine")]
    bank = ProbingMeter(benchmark, setups).bank(network)
    whole: Any = SimpleNamespace(name="whole", detector=None)
    answers = probe(bank, NORMALIZATION, [Attack("fgsm", 2)], [*setups, whole])
    assert set(answers["fgsm 2/255"]["auroc"]) == {"msp", "mine"}
    assert caplog.messages == ["probe: left out, as they score whole benchmarks only: whole"]


@pytest.mark.parametrize("values", [("fgms", 1), ("pgd", 0)])
def test_attack_that_cannot_be(values: tuple) -> None:
    with pytest.raises(PluginError, match="attack: must be one of fgsm, pgd|epsilon: must be a finite number above 0"):
        Attack(*values)


# -------------------------------------------------------------------- interventions


def test_an_intervention_scales_the_features_of_an_mlp(benchmark: Benchmark) -> None:
    images, labels = tensors(benchmark, TRAIN)
    recipe = Recipe(epochs=4, batch_size=20, learning_rate=1e-3, augment=False, optimizer="adam")
    intervention = Intervention(2, 3.0, images)
    norms: dict[int, float] = {}

    def look(network: nn.Module, entry: dict) -> None:
        intervention(network, entry)
        with torch.no_grad():
            norms[entry["epoch"]] = float(network(images, return_feature=True)[1].norm(dim=1).mean())

    train(lambda: MLP(CLASSES, 16, 2), images, labels, recipe, 0, on_epoch=look)
    assert intervention.layer == "hidden.2"
    assert intervention.fn_after == pytest.approx(3 * intervention.fn_before, rel=1e-5)
    assert norms[2] == pytest.approx(intervention.fn_after, rel=1e-5)
    assert norms[1] < norms[2] / 2


def test_an_intervention_in_a_residual_network(benchmark: Benchmark) -> None:
    network = ResNet18_32x32(CLASSES, 2, 1).eval()
    intervention = Intervention(1, 2.0, tensors(benchmark, TRAIN)[0])
    before = copy.deepcopy(network.state_dict())
    intervention(network, {"epoch": 0})
    assert intervention.fn_before is None
    intervention(network, {"epoch": 1})
    assert intervention.layer == "layer4.0.shortcut.1"
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert set(changed) <= {"layer4.0.shortcut.1.weight", "layer4.0.shortcut.1.bias"}
    assert intervention.fn_after != intervention.fn_before


def test_intervention_that_cannot_be(benchmark: Benchmark) -> None:
    images = tensors(benchmark, TRAIN)[0]
    with pytest.raises(PluginError, match="intervention: factor: must be a finite number above 0, got 0"):
        Intervention(1, 0, images)
    with pytest.raises(PluginError, match="unknown layer 'hiden.0' \\(did you mean 'hidden.0'"):
        Intervention(1, 2, images, "hiden.0")(MLP(CLASSES, 4, 1), {"epoch": 1})
    with pytest.raises(PluginError, match="layer 'hidden' has no weights of its own"):
        Intervention(1, 2, images, "hidden")(MLP(CLASSES, 4, 1), {"epoch": 1})


def test_recovery() -> None:
    assert recovery(20.0, 10.0, 10.0) == 1
    assert recovery(20.0, 20.0, 10.0) == 0
    assert recovery(5.0, 7.5, 10.0) == 0.5
    assert np.isclose(recovery(5.0, 12.0, 10.0), 1.4)
    with pytest.raises(PluginError, match="fn was not moved"):
        recovery(10.0, 10.0, 10.0)
