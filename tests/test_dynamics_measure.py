"""One network after one epoch: the record, the robustness probe, and interventions."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nci_plugin import Benchmark, Features, PluginError, Preprocessing, evaluate
from nci_plugin.benchmarks.benchmark import TEST, TRAIN
from nci_plugin.collapse import measure
from nci_plugin.config import load_detector
from nci_plugin.dynamics import measure as module
from nci_plugin.dynamics.intervention import Intervention, recovery
from nci_plugin.dynamics.measure import DETECTORS, Meter
from nci_plugin.dynamics.probe import Attack
from nci_plugin.networks.mlp import MLP
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.training import Recipe, train

NORMALIZATION = ((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
SIZE, CLASSES = 8, 3

pytestmark = pytest.mark.usefixtures("one_thread")


def split(seed: int, count: int, ood: bool = False) -> list:
    """Normalised images of random grey values, brighter in rows of their class; OOD ones in none."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = (torch.tensor(row).view(3, 1, 1) for row in NORMALIZATION)
    items = []
    for index in range(count):
        pixels = 0.5 * torch.rand(3, SIZE, SIZE, generator=generator)
        label = index % CLASSES
        if not ood:
            pixels[:, 2 * label : 2 * label + 2] += 0.4
        items.append(((pixels - mean) / deviation, -1 if ood else label))
    return items


class Items(torch.utils.data.Dataset):
    def __init__(self, items: list) -> None:
        self.items, self.read = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        return self.items[index]


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return Benchmark.from_splits(
        "rows",
        CLASSES,
        train=Items(split(0, 60)),
        val=Items(split(1, 30)),
        test=Items(split(2, 45)),
        ood_val=Items(split(3, 20, ood=True)),
        near={"none": Items(split(4, 30, ood=True))},
        far={"other": Items(split(5, 25, ood=True))},
        csid={"more": Items(split(6, 20))},
        preprocessing=Preprocessing(SIZE, SIZE, NORMALIZATION),
    )


def tensors(benchmark: Benchmark, name: str) -> tuple[Tensor, Tensor]:
    items = benchmark.splits[name].items
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


@pytest.fixture(scope="module")
def network(benchmark: Benchmark) -> nn.Module:
    recipe = Recipe(epochs=15, batch_size=10, learning_rate=3e-3, augment=False, optimizer="adam")
    return train(lambda: MLP(CLASSES, 16, 2), *tensors(benchmark, TRAIN), recipe, seed=0)[0]


@pytest.fixture(scope="module")
def meter(benchmark: Benchmark) -> Meter:
    attacks = [Attack("fgsm", 2), Attack("fgsm", 16), Attack("pgd", 16)]
    return Meter(benchmark, [load_detector(name) for name in DETECTORS], batch_size=7, attacks=attacks)


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
    assert set(measure(meter.bank(network).statistics, meter.bank(network).head).to_dict()) > set(module.NUMBERS)


def test_images_are_decoded_once_and_the_network_stays(benchmark: Benchmark, network: nn.Module, meter: Meter) -> None:
    read = sum(source.read for source in benchmark.splits.values())
    network = copy.deepcopy(network).train()
    before = copy.deepcopy(network.state_dict())
    first, again = (meter(network, epoch, with_probe=True) for epoch in (1, 2))
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
    meter: Meter, network: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = copy.deepcopy(network)
    with torch.no_grad():
        dead.hidden[-2].weight.zero_()
        dead.hidden[-2].bias.fill_(-1)  # every feature is 0
    record = meter(dead, 3)
    assert record.collapse["nc1_quotient"] is None
    assert record.collapse["mean_norm_l2"] == 0
    assert set(record.auroc) == set(DETECTORS)
    unusable = [name for name, by_group in record.auroc.items() if None in by_group.values()]
    assert all(f"epoch 3: no AUROC of '{name}'" in capsys.readouterr().err for name in unusable[:1])


# -------------------------------------------------------------------- attacks


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


def test_probe_of_a_network(meter: Meter, network: nn.Module) -> None:
    answers = meter(network, 1, with_probe=True).probe
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
