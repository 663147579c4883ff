"""Collapse layer by layer: each stage of a network measured as if a nearest-class-centre head stood on it.

Everything is read from the bank: the training statistics of each stage, and its pooled outputs of the test and OOD
images, which the one forward pass left beside the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nci_plugin.benchmarks.benchmark import FAR, NEAR, TEST, Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.collapse import measure
from nci_plugin.collapse.geometry import Undefined, centred_means, global_mean, present_classes
from nci_plugin.collapse.progressive import Directions
from nci_plugin.collapse.registry import of_training
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector
from nci_plugin.diagnosis.record import StageRecord
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.stages import PENULTIMATE

SCORES: dict[str, dict[str, Any]] = {"nc1": {}, "nc2": {}, "nc3": {}, "nc4": {}, "nc5": {"max_logit": False}}
"""Per-sample scores of a stage and their settings; without a head there is no logit to multiply NECO's ratio with."""


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


def measure_layers(bank: FeatureBank, benchmark: Benchmark) -> list[StageRecord]:
    """NC1, NC2, norm, accuracy of class centres and `within_cosine` (ID test), AUROC of nc1 to nc5 after every stage.

    Each stage has the metrics that no head has a part in. Raises PluginError where the bank has no stages: it was
    extracted without, or the benchmark holds features.
    """
    stages = bank.stages
    sets = {group: [f"{group}/{name}" for name in benchmark.data_sets(group)] for group in (NEAR, FAR)}
    tested = [TEST, *(name for names in sets.values() for name in names)]
    if stages is None or bank.statistics is None or not stages.statistics or not set(tested) <= set(stages.splits):
        raise PluginError("layers: stages can only be measured on images; the benchmark holds features")
    statistics = {**stages.statistics, PENULTIMATE: bank.statistics}
    return [_measured(bank, name, each, tested, sets) for name, each in statistics.items()]


def _measured(
    bank: FeatureBank, stage: str, statistics: ClassStatistics, tested: Sequence[str], sets: Mapping[str, Sequence[str]]
) -> StageRecord:
    """One stage."""
    head = nearest_centre_head(statistics)
    detectors, notes = _fitted(statistics, head)
    scores: dict[str, dict[str, list[Tensor]]] = {name: {split: [] for split in tested} for name in detectors}
    right, directions = 0, Directions(statistics.num_classes, statistics.num_features)
    for split in tested:
        for rows, labels in _batches(bank, split, stage):
            features = rows.double()
            logits = head.logits(features)
            if split == TEST:
                right += int((logits.argmax(dim=1) == labels).sum())
                directions.update(features, labels)
            for name, detector in detectors.items():
                scores[name][split].append(detector.score(features, logits))
    whole = {name: {split: torch.cat(parts).numpy() for split, parts in each.items()} for name, each in scores.items()}
    metrics = measure(statistics, head)
    values = {m.name: metrics.values[m.name] for m in of_training() if not m.reads_head and not m.of_features}
    aurocs = {
        group: {
            name: float(100 * np.mean([auroc(by_split[TEST], by_split[each]) for each in splits]))
            for name, by_split in whole.items()
        }
        for group, splits in sets.items()
        if splits
    }
    accuracy, cosine = right / len(bank.splits[TEST]), None
    try:
        cosine = directions.mean_cosine()
    except Undefined as reason:
        notes["within_cosine"] = str(reason)
    return StageRecord(
        stage,
        {"num_features": metrics.num_features, **values, "nearest_centre_accuracy": accuracy, "within_cosine": cosine},
        aurocs,
        {**{name: reason for name, reason in metrics.notes.items() if name in values}, **notes},
    )


def _fitted(statistics: ClassStatistics, head: LinearHead) -> tuple[dict[str, Detector], dict[str, str]]:
    """The detectors of SCORES on a stage, and why the others have no score on it."""
    fitted: dict[str, Detector] = {}
    notes: dict[str, str] = {}
    for name, settings in SCORES.items():
        try:
            fitted[name] = registry.create(name, **settings).fit(statistics, head)
        except PluginError as error:
            notes[name] = str(error)
    return fitted, notes


def _batches(bank: FeatureBank, split: str, stage: str) -> Iterator[tuple[Tensor, Tensor]]:
    """A stage's features (n, P) of a split, a batch of the pass at a time, and their labels."""
    assert bank.stages is not None
    for shard, outputs in zip(bank.splits[split].shards, bank.stages.splits[split]):
        features = shard.features if stage == PENULTIMATE else outputs[stage]
        yield from zip(features.split(bank.batch_size), shard.labels.split(bank.batch_size))


def mean_over_networks(layers: Sequence[Sequence[StageRecord]]) -> list[StageRecord]:
    """Means over networks of the same stages; what one network lacks is None, or left out of the scores."""

    def mean(maps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        values = {name: [each[name] for each in maps] for name in maps[0] if all(name in each for each in maps)}
        return {name: None if None in some else float(np.mean(some)) for name, some in values.items()}

    return [
        StageRecord(
            same[0].stage,
            mean([stage.values for stage in same]),
            {group: mean([stage.auroc[group] for stage in same]) for group in same[0].auroc},
        )
        for same in zip(*layers)
    ]
