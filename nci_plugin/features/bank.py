"""Everything that one network left on one benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import TRAIN
from nci_plugin.features.forward import Forward, prepared
from nci_plugin.features.processes import ALONE, Processes
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.features.store import SplitStore
from nci_plugin.networks.cut import Cut
from nci_plugin.networks.head import LinearHead


class FitsOn(Enum):
    """What `Detector.fit` must see of the training set: nothing, its ClassStatistics or those of h / ||h||_2, or h."""

    NOTHING = "nothing"
    STATISTICS = "statistics"
    UNIT_STATISTICS = "unit statistics"
    BANK = "bank"


@dataclass(frozen=True, eq=False)
class Images:
    """A network on its device, its images by split, Datasets of (image (3, H, W), label), and the name of its head."""

    network: nn.Module
    device: torch.device
    splits: Mapping[str, Any]
    workers: int
    head_name: str

    @contextmanager
    def forward(self) -> Iterator[Forward]:
        """The network, prepared and cut at its head as it was for the pass, in float32."""
        with prepared(self.network, self.device):
            yield Forward(Cut(self.network, self.head_name), self.device)


@dataclass(frozen=True, eq=False)
class Stages:
    """Pooled outputs of the network's stages, in the order in which they ran; the penultimate features are the bank's.

    ``statistics`` are those of the training split by stage. ``splits`` maps a split to its shards, of as many rows as
    those of its features, and a shard maps a stage to its output (n, P_s) in float32.
    """

    statistics: Mapping[str, ClassStatistics]
    splits: Mapping[str, Sequence[Mapping[str, Tensor]]]


@dataclass(eq=False)
class FeatureBank:
    """Everything that a detector may read of one network on one benchmark.

    ``splits`` maps names such as ``id/test`` and ``near/cifar100`` to features; the training split is there only if a
    detector needs it. ``statistics`` are those of the training split and ``unit_statistics`` those of its `unit_rows`;
    None if no detector needs them. ``batch_size`` images went through the network at a time, and ``images`` are that
    network and those images, for methods that must pass them again. ``training_store`` is where features of the
    training split are stored if they ever were. ``stages`` are there if asked for. ``float32`` holds the first rows of
    the tested splits once more, in float32, where the pass was in another precision. ``processes`` have the same bank
    and share what is computed from it, each on its ``device``; the bank itself lies on the CPU.
    """

    head: LinearHead
    splits: dict[str, FeatureSplit]
    statistics: ClassStatistics | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 200
    images: Images | None = None
    training_store: SplitStore | None = None
    unit_statistics: ClassStatistics | None = None
    stages: Stages | None = None
    float32: dict[str, FeatureSplit] = field(default_factory=dict)
    processes: Processes = ALONE
    device: torch.device = torch.device("cpu")

    def training(self, fits_on: FitsOn) -> ClassStatistics | FeatureSplit | None:
        """What a detector fits on; None where it is not here."""
        return {
            FitsOn.NOTHING: None,
            FitsOn.STATISTICS: self.statistics,
            FitsOn.UNIT_STATISTICS: self.unit_statistics,
            FitsOn.BANK: self.splits.get(TRAIN),
        }[fits_on]
