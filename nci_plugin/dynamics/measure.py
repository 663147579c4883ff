"""One network after one epoch in numbers: collapse of its training features, and detection from the same pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin import collapse
from nci_plugin.benchmarks.benchmark import GROUP_ROWS, TEST, TRAIN, Benchmark, Features
from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.checks import PluginError, check_finite, check_known, check_number
from nci_plugin.dynamics.trajectory import GROUPS, NC4_TRAIN, EpochRecord, Value
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.fingerprint import weights_digest
from nci_plugin.features.forward import prepared
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.metrics import accuracy
from nci_plugin.networks.cut import PROBE_ROWS, Cut
from nci_plugin.networks.head import LinearHead
from nci_plugin.training.losses import LOSSES

DETECTORS = ("nci", "pscore", "feature_norm", "msp", "neco")
"""The detectors whose AUROC is followed along training, where no others are chosen."""

NUMBERS = tuple(each.name for each in fields(collapse.CollapseMetrics) if each.type == "Value")
"""The fields of CollapseMetrics that are one number, or None."""

MEMORY_BYTES = 4 * 2**30
"""Largest benchmark, as decoded float32 images, that `Meter` holds in memory."""


def collapse_numbers(statistics: ClassStatistics, head: LinearHead, training: FeatureSplit | None) -> dict[str, Value]:
    """The scalars of CollapseMetrics by field name; NC4 of the ``training`` features too, None without them."""
    metrics = collapse.measure(statistics, head)
    nc4 = None if training is None else collapse.nearest_centre(training, statistics).agreement
    return {**{name: getattr(metrics, name) for name in NUMBERS}, NC4_TRAIN: nc4}


def training_numbers(logits: Tensor, labels: Tensor, loss: str) -> dict[str, Any]:
    """``train_loss``, ``train_accuracy`` and where they are from, of logits (n, K) and labels (n,) in eval mode."""
    check_known("loss", loss, LOSSES)
    return {
        "train_loss": float(LOSSES[loss](logits.double(), labels)),
        "train_accuracy": accuracy(logits.argmax(dim=1).numpy(), labels.numpy()),
        "train_from": f"{loss} of the training images in eval mode",
    }


def network_numbers(network: nn.Module) -> dict[str, Any]:
    """``weight_norm``, ||.||_2 over all parameters, and ``weights``, their digest."""
    squares = sum(float(parameter.detach().double().square().sum()) for parameter in network.parameters())
    return {"weight_norm": squares**0.5, "weights": weights_digest(network)}


def measure_bank(
    bank: FeatureBank, benchmark: Benchmark, setups: Sequence[Contestant], epoch: int, loss: str = "ce"
) -> EpochRecord:
    """The record of a network's features, with those of the training split: everything but what the weights give.

    Each detector is fitted and its hyper-parameters are searched as in any evaluation; one that cannot be used on this
    network has no AUROC, and a line on standard error says why. ``loss`` is a key of LOSSES, the one trained with.
    """
    training = bank.splits[TRAIN]
    assert bank.statistics is not None
    evaluation = evaluate_bank(bank, benchmark, setups)
    auroc: dict[str, dict[str, Value]] = {setup.name: {} for setup in setups}
    for row in evaluation.results:
        if row.dataset == GROUP_ROWS[row.group]:
            auroc[row.detector][row.group if row.setting == "ood" else f"{row.setting} {row.group}"] = row.auroc
    for name, reason in evaluation.failures.items():
        print(f"epoch {epoch}: no AUROC of '{name}': {reason}", file=sys.stderr)
        auroc[name] = dict.fromkeys(GROUPS)
    return EpochRecord(
        epoch=epoch,
        test_accuracy=accuracy(bank.splits[TEST].predictions.numpy(), bank.splits[TEST].labels.numpy()),
        collapse=collapse_numbers(bank.statistics, bank.head, training),
        auroc=auroc,
        phase=loss,
        **training_numbers(training.logits, training.labels, loss),
    )


class Meter:
    """Measures any number of networks on one benchmark, whose images are decoded once and held in memory.

    Raises PluginError if the benchmark has no training images, or is too large for that.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        setups: Sequence[Contestant],
        device: torch.device | str = "cpu",
        batch_size: int = 500,
    ) -> None:
        check_number("batch_size", batch_size, above=0, whole=True)
        self.benchmark, self.setups = benchmark, setups
        self.device, self.batch_size = torch.device(device), batch_size
        self._bytes = 0
        splits = open_splits(benchmark)
        if TRAIN not in splits:
            raise PluginError(
                f"benchmark '{benchmark.name}': the split '{TRAIN}' is missing; collapse is measured on it"
            )
        self.images = {name: self._decoded(name, split) for name, split in splits.items()}

    def __call__(self, network: nn.Module, epoch: int, loss: str = "ce") -> EpochRecord:
        """The record of a network after ``epoch`` epochs; its mode and device stay as they were.

        ``loss`` is that of the epoch, a key of LOSSES.
        """
        with prepared(network, self.device):
            record = measure_bank(self.bank(network), self.benchmark, self.setups, epoch, loss)
            return replace(record, **network_numbers(network))

    def bank(self, network: nn.Module) -> FeatureBank:
        """Features of every split, from one pass of a network that is in eval mode on the device."""
        cut = Cut.of(network, self.images[TRAIN][0][:PROBE_ROWS].to(self.device))
        splits = {name: passed(cut, *each, self.device, self.batch_size, name) for name, each in self.images.items()}
        head = cut.head
        if head.num_classes != self.benchmark.num_classes:
            raise PluginError(
                f"network: its head has {head.num_classes} classes, benchmark '{self.benchmark.name}' has"
                f" {self.benchmark.num_classes}; pass the network that was trained on it"
            )
        features, labels = splits[TRAIN].features, splits[TRAIN].labels
        statistics, unit_statistics = (
            ClassStatistics(head.num_classes, head.num_features).update(rows, labels)
            for rows in (features, unit_rows(features))
        )
        return FeatureBank(head, splits, statistics, batch_size=self.batch_size, unit_statistics=unit_statistics)

    def _decoded(self, name: str, split: Any) -> tuple[Tensor, Tensor]:
        if isinstance(split, Features):
            raise PluginError(f"split '{name}': features cannot be followed along training; give its images")
        parts = list(image_batches(name, split, self.batch_size))
        images, labels = (torch.cat(each) for each in zip(*parts))
        self._bytes += images.numel() * images.element_size()
        if self._bytes > MEMORY_BYTES:
            raise PluginError(
                f"benchmark '{self.benchmark.name}': its decoded images need more than {MEMORY_BYTES / 2**30:g} GB at"
                f" split '{name}'; measure its stored features instead (measure_bank)"
            )
        return images, labels.long()


def passed(cut: Cut, images: Tensor, labels: Tensor, device: torch.device, batch_size: int, name: str) -> FeatureSplit:
    """Features, logits and labels of images (n, 3, H, W), on the CPU; raises PluginError on NaN or infinity."""
    parts = [cut(batch.to(device)) for batch in images.split(batch_size)]
    features, logits = (torch.cat(each).cpu() for each in zip(*parts))
    check_finite(f"split '{name}' features", features)
    check_finite(f"split '{name}' logits", logits)
    return FeatureSplit.of(features, logits, labels)
