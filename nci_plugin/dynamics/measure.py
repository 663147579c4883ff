"""One network after one epoch in numbers: collapse of its training features, and detection from the same pass."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nci_plugin import collapse
from nci_plugin.benchmarks.benchmark import FAR, GROUP_ROWS, NEAR, TEST, TRAIN, Benchmark, Features
from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.checks import PluginError, check_known, check_number
from nci_plugin.collapse.registry import of_training
from nci_plugin.dynamics.epoch import EpochRecord, Value
from nci_plugin.dynamics.trajectory import GROUPS
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.fingerprint import weights_digest
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.metrics import accuracy
from nci_plugin.networks.head import LinearHead
from nci_plugin.training.losses import LOSSES

logger = logging.getLogger(__name__)

DETECTORS = ("nci", "pscore", "feature_norm", "msp", "neco")
"""The detectors whose AUROC is followed along training, where no others are chosen."""

MEMORY_BYTES = 4 * 2**30
"""Largest benchmark, as decoded float32 images, that `Meter` holds in memory."""


def collapse_numbers(statistics: ClassStatistics, head: LinearHead, training: FeatureSplit | None) -> dict[str, Value]:
    """The metrics of one number by name, those of the ``training`` features too; None without them."""
    metrics = collapse.measure(statistics, head, training=training)
    return {metric.name: metrics.values.get(metric.name) for metric in of_training()}


def ortho_devs(bank: FeatureBank, benchmark: Benchmark) -> dict[str, Value]:
    """NC5 of each group of OOD sets, the mean of `collapse.ortho_dev` over its sets; None where a mean is zero."""
    assert bank.statistics is not None
    found: dict[str, Value] = {}
    for group in (NEAR, FAR):
        splits = [bank.splits[f"{group}/{name}"] for name in benchmark.data_sets(group)]
        if not splits:
            continue
        try:
            found[group] = sum(collapse.ortho_dev(split, bank.statistics) for split in splits) / len(splits)
        except collapse.Undefined:
            found[group] = None
    return found


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
    network has no AUROC, and a warning says why. ``loss`` is a key of LOSSES, the one trained with.
    """
    training = bank.splits[TRAIN]
    assert bank.statistics is not None
    evaluation = evaluate_bank(bank, benchmark, setups)
    auroc: dict[str, dict[str, Value]] = {setup.name: {} for setup in setups}
    for row in evaluation.results:
        if row.dataset == GROUP_ROWS[row.group]:
            auroc[row.detector][row.group if row.setting == "ood" else f"{row.setting} {row.group}"] = row.auroc
    for name, reason in evaluation.failures.items():
        logger.warning("epoch %d: no AUROC of '%s': %s", epoch, name, reason)
        auroc[name] = dict.fromkeys(GROUPS)
    return EpochRecord(
        epoch=epoch,
        test_accuracy=accuracy(bank.splits[TEST].predictions.numpy(), bank.splits[TEST].labels.numpy()),
        collapse=collapse_numbers(bank.statistics, bank.head, training),
        auroc=auroc,
        ortho_dev=ortho_devs(bank, benchmark),
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
        benchmark.check_has(TRAIN, "collapse is measured on it")
        self.images = {name: self._decoded(name, split) for name, split in splits.items()}

    def __call__(self, network: nn.Module, epoch: int, loss: str = "ce") -> EpochRecord:
        """The record of a network after ``epoch`` epochs; its mode and device stay as they were.

        ``loss`` is that of the epoch, a key of LOSSES.
        """
        record = measure_bank(self.bank(network), self.benchmark, self.setups, epoch, loss)
        return replace(record, **network_numbers(network))

    def bank(self, network: nn.Module) -> FeatureBank:
        """Features of every split, with both statistics of the training images, from one pass."""
        options = ExtractionOptions(str(self.device), self.batch_size, progress=False)
        return extract(network, self.benchmark, {FitsOn.BANK, FitsOn.UNIT_STATISTICS}, options, self.images)

    def _decoded(self, name: str, split: Any) -> TensorDataset:
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
        return TensorDataset(images, labels.long())
