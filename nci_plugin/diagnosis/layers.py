"""Collapse layer by layer: each stage of a network measured as if a nearest-class-centre head stood on it.

One pass over the training images fills a ClassStatistics for each stage, and one over the test and OOD images scores
them; no feature is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nci_plugin.benchmarks.benchmark import FAR, NEAR, TEST, TRAIN, Benchmark
from nci_plugin.benchmarks.opening import image_batches
from nci_plugin.checks import PluginError, check_finite
from nci_plugin.collapse import measure
from nci_plugin.collapse.geometry import centred_means, global_mean, present_classes
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector
from nci_plugin.diagnosis.stages import StageFeatures
from nci_plugin.extraction import prepared
from nci_plugin.feature_bank import FeatureBank
from nci_plugin.head import LinearHead
from nci_plugin.metrics import auroc
from nci_plugin.networks.cut import Cut
from nci_plugin.statistics import ClassStatistics

SCORES: dict[str, dict[str, Any]] = {"nc1": {}, "nc2": {}, "nc3": {}, "nc4": {}, "nc5": {"max_logit": False}}
"""Per-sample scores of a stage and their settings; without a head there is no logit to multiply NECO's ratio with."""

METRICS = (
    "num_features",
    "nc1_pinv",
    "nc1_quotient",
    "nc1_cdnv",
    "nc2_equinorm_means",
    "nc2_equiangular_means",
    "nc2_etf_error",
    "gnc2_log_mean",
    "gnc2_log_variance",
    "mean_norm_l2",
    "mean_norm_l1",
)
"""What of CollapseMetrics has a meaning where no head applies."""


def nearest_centre_head(statistics: ClassStatistics) -> LinearHead:
    """The linear classifier whose largest logit is the nearest class mean, in float64.

    argmin_k ||h - mu_k|| = argmax_k m_k.h - m_k.mu_G - ||m_k||^2 / 2 with m_k = mu_k - mu_G; a class without samples
    is never predicted.
    """
    classes, mean = present_classes(statistics), global_mean(statistics)
    weight = torch.zeros_like(statistics.means)
    weight[classes] = centred_means(statistics)
    bias = torch.full((len(weight),), -torch.inf, dtype=weight.dtype)
    bias[classes] = -weight[classes] @ mean - weight[classes].square().sum(dim=1) / 2
    return LinearHead(weight, bias)


@dataclass
class _Stage:
    """What is collected of one stage."""

    statistics: ClassStatistics
    head: LinearHead | None = None
    detectors: dict[str, Detector] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)

    def fit(self) -> None:
        self.head = nearest_centre_head(self.statistics)
        for name, settings in SCORES.items():
            detector = registry.create(name, **settings)
            try:
                self.detectors[name] = detector.fit(self.statistics, self.head)
            except PluginError as error:
                self.notes[name] = str(error)

    def add(self, split: str, features: Tensor, labels: Tensor) -> None:
        assert self.head is not None
        features = features.double()
        logits = self.head.logits(features)
        self.right[split] = self.right.get(split, 0) + int((logits.argmax(dim=1) == labels).sum())
        for name, detector in self.detectors.items():
            self.scores.setdefault(name, {}).setdefault(split, []).append(detector.score(features, logits))

    def summary(self, name: str, benchmark: Benchmark, sizes: Mapping[str, int]) -> dict[str, Any]:
        assert self.head is not None
        metrics = measure(self.statistics, self.head)
        scores = {
            detector: {split: torch.cat(parts).numpy() for split, parts in by_split.items()}
            for detector, by_split in self.scores.items()
        }
        notes = {key: reason for key, reason in metrics.notes.items() if key in METRICS}
        return {
            "stage": name,
            **{metric: getattr(metrics, metric) for metric in METRICS},
            "nearest_centre_accuracy": self.right[TEST] / sizes[TEST],
            "auroc": {
                group: {
                    detector: float(
                        100 * np.mean([auroc(by_split[TEST], by_split[f"{group}/{each}"]) for each in sets])
                    )
                    for detector, by_split in scores.items()
                }
                for group in (NEAR, FAR)
                if (sets := benchmark.data_sets(group))
            },
            "notes": {**notes, **self.notes},
        }


def measure_layers(bank: FeatureBank, benchmark: Benchmark, head: str | None, progress: bool) -> list[dict[str, Any]]:
    """NC1, NC2, feature norm, nearest-class-centre accuracy (ID test) and AUROC of nc1 to nc5 after every stage.

    Each stage is a mapping of METRICS, shares in 0..1 and AUROC in percent; a value that does not exist is None, or
    left out of ``auroc``, with the reason under ``notes``. Raises PluginError where the bank has no images.
    """
    source = bank.images
    if source is None or TRAIN not in source.splits:
        raise PluginError("layers: stages can only be measured on images; the benchmark holds features")
    tested = [TEST, *(f"{group}/{name}" for group in (NEAR, FAR) for name in benchmark.data_sets(group))]
    sizes = {split: len(source.splits[split]) for split in (TRAIN, *tested)}
    stages: dict[str, _Stage] = {}
    quiet = None if progress else True  # None: quiet unless standard error is a terminal
    with (
        prepared(source.network, source.device),
        tqdm(total=sum(sizes.values()), unit="img", desc="layers", disable=quiet) as bar,
    ):
        first = next(image_batches(TRAIN, source.splits[TRAIN], bank.batch_size))[0]
        network = StageFeatures(source.network, Cut.of(source.network, first.to(source.device), head))
        for split in (TRAIN, *tested):
            row = 0
            for images, labels in image_batches(split, source.splits[split], bank.batch_size, source.workers):
                for name, features in network(images.to(source.device)).items():
                    check_finite(f"split '{split}' features of {name}", features, first_index=row)
                    if split == TRAIN:
                        stage = stages.setdefault(name, _Stage(_statistics(benchmark, features)))
                        stage.statistics.update(features, labels.long())
                    else:
                        stages[name].add(split, features, labels)
                row += len(images)
                bar.update(len(images))
            if split == TRAIN:
                for stage in stages.values():
                    stage.fit()
    return [stage.summary(name, benchmark, sizes) for name, stage in stages.items()]


def _statistics(benchmark: Benchmark, features: Tensor) -> ClassStatistics:
    return ClassStatistics(benchmark.num_classes, features.shape[1])


def mean_over_networks(layers: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Means over networks of the same stages; a value that one network lacks is None."""

    def mean(values: list[Any]) -> Any:
        if all(isinstance(value, Mapping) for value in values):
            keys = [key for key in values[0] if all(key in value for value in values)]
            return {key: mean([value[key] for value in values]) for key in keys}
        return None if None in values else float(np.mean(values))

    return [
        {
            "stage": same[0]["stage"],
            **{key: mean([stage[key] for stage in same]) for key in same[0] if key not in ("stage", "notes")},
        }
        for same in zip(*layers)
    ]
