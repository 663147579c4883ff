"""Robustness probe: adversarial ID images, and how geometry and scores respond to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nci_plugin import collapse
from nci_plugin.benchmarks.benchmark import TEST, Benchmark
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.benchmarks.opening import image_batches
from nci_plugin.checks import PluginError, check_choice, check_number
from nci_plugin.dynamics.measure import Meter, measure_bank, network_numbers
from nci_plugin.dynamics.trajectory import EpochRecord
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.scoring import score_split
from nci_plugin.evaluation.search import fit_and_search
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.metrics import accuracy, auroc
from nci_plugin.networks.calling import Call

logger = logging.getLogger(__name__)

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

GEOMETRY = ("nc1_quotient", "nc1_cdnv", "nc2_equiangular_means", "nc3_self_duality", "mean_norm_l2")
"""What is measured of attacked features as it is of training features."""

STEPS = 10
STEP_SHARE = 0.25
"""Length of a step of PGD as a share of epsilon: 2 of 8 grey values (Madry et al. 2018)."""


@dataclass(frozen=True)
class Attack:
    """``fgsm`` (Goodfellow et al. 2015) or ``pgd`` (Madry et al. 2018), within ``epsilon`` grey values of 255 a pixel.

    Both go up the cross-entropy of the true class within the l-infinity ball and stay valid images. PGD starts at
    random in the ball, from ``seed``. Raises PluginError on another name or an epsilon that is not above 0.
    """

    name: str
    epsilon: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("attack", self.name, ("fgsm", "pgd"))
        check_number(f"attack '{self.name}': epsilon", self.epsilon, above=0)

    def __str__(self) -> str:
        return f"{self.name} {self.epsilon:g}/255"

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, normalization: Normalization) -> Tensor:
        """Attacked images (n, 3, H, W) of images that are normalised with (mean, standard deviation) of each channel.

        The network must be in eval mode; gradients of its parameters are not touched.
        """
        mean, deviation = (images.new_tensor(row).view(1, -1, 1, 1) for row in normalization)
        black, white, radius = (0 - mean) / deviation, (1 - mean) / deviation, self.epsilon / 255 / deviation
        low, high = (images - radius).maximum(black), (images + radius).minimum(white)
        if self.name == "fgsm":
            return (images + radius * _gradient(network, images, labels).sign()).clamp(low, high)
        generator = torch.Generator().manual_seed(self.seed)
        start = 2 * torch.rand(images.shape, generator=generator).to(images) - 1
        attacked = (images + radius * start).clamp(low, high)
        for _ in range(STEPS):
            attacked = attacked + STEP_SHARE * radius * _gradient(network, attacked, labels).sign()
            attacked = attacked.clamp(low, high)
        return attacked


class ProbingMeter(Meter):
    """A Meter that can also attack the ID test images; the benchmark needs its preprocessing for that."""

    def __init__(
        self, benchmark: Benchmark, setups: Sequence[Contestant], batch_size: int = 500, attacks: Sequence[Attack] = ()
    ) -> None:
        super().__init__(benchmark, setups, batch_size=batch_size)
        self.attacks = attacks

    def probed(self, network: nn.Module, epoch: int, loss: str = "ce") -> EpochRecord:
        """The record of `Meter` with the answers of `probe`, from the same features."""
        bank = self.bank(network)
        record = measure_bank(bank, self.benchmark, self.setups, epoch, loss)
        answers = probe(bank, self._normalization(), self.attacks, self.setups)
        return replace(record, **network_numbers(network), probe=answers)

    def _normalization(self) -> Normalization:
        source = self.benchmark.splits[TEST]
        preprocessing = source.preprocessing if isinstance(source, ImageList) else self.benchmark.preprocessing
        if preprocessing is None:
            raise PluginError(
                f"benchmark '{self.benchmark.name}': attacks in grey values need its preprocessing; pass"
                " Benchmark(preprocessing=...), or no attacks"
            )
        return preprocessing.normalization


def probe(
    bank: FeatureBank, normalization: Normalization, attacks: Sequence[Attack], setups: Sequence[Contestant]
) -> dict[str, Any]:
    """By attack: ``accuracy`` (percent), NC metrics of the attacked ID test images, and the detectors' response.

    ``nc4`` is the share that is still nearest to the training mean of the predicted class. ``auroc`` is, for each
    detector, that of clean against attacked test images in percent: 50, the attack is not seen; 100, all attacked
    images score as less ID than all clean ones; below 50, as more ID. ``clean`` has the same numbers without an attack.
    ``bank`` must have statistics and the images, which are attacked as they are normalised. A method that scores whole
    benchmarks only is left out, as a warning says.
    """
    assert bank.images is not None
    if left_out := [setup.name for setup in setups if setup.detector is None]:
        logger.warning("probe: left out, as they score whole benchmarks only: %s", ", ".join(left_out))
    detectors = {setup.name: fit_and_search(setup, bank).detector for setup in setups if setup.detector is not None}
    clean = {name: score_split(detector, bank.splits[TEST]) for name, detector in detectors.items()}
    answers: dict[str, Any] = {"clean": _response(bank.splits[TEST], bank)}
    network, device = bank.images.network, bank.images.device
    for attack in attacks:
        batches = image_batches(TEST, bank.images.splits[TEST], bank.batch_size)
        attacked = (
            (attack(network, images.to(device), labels.to(device), normalization), labels) for images, labels in batches
        )
        with bank.images.forward() as forward:
            split = FeatureSplit([passed.chunk for passed in forward.over(attacked, f"{attack}:")])
        against = {name: 100 * auroc(clean[name], score_split(each, split)) for name, each in detectors.items()}
        answers[str(attack)] = {**_response(split, bank), "auroc": against}
    return answers


def _response(split: FeatureSplit, bank: FeatureBank) -> dict[str, Any]:
    assert bank.statistics is not None
    statistics = ClassStatistics(bank.head.num_classes, bank.head.num_features).update(split.features, split.labels)
    metrics = collapse.measure(statistics, bank.head)
    return {
        "accuracy": accuracy(split.predictions.numpy(), split.labels.numpy()),
        "nc4": collapse.nearest_centre(split, bank.statistics).agreement,
        **{name: getattr(metrics, name) for name in GEOMETRY},
    }


def _gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        # In float32, and summed: each image's own gradient, whatever the batch.
        loss = F.cross_entropy(Call(network)(images).float(), labels, reduction="sum")
        return torch.autograd.grad(loss, images)[0]
