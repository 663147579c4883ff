"""Where a detector is worst: by the class that the network predicts, and by the class of the OOD samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from nci_plugin.comparison.delong import components, covariance
from nci_plugin.comparison.samples import Samples
from nci_plugin.metrics.columns import ID_ACCEPTED, METRIC_COLUMNS
from nci_plugin.metrics.counts import Floats

LEAST = 20
"""Groups with fewer ID or OOD samples are left out: the worst of many tiny groups would be an accident."""

COUNT = 5


@dataclass(frozen=True)
class GroupScore:
    """AUROC with DeLong's 95 % interval, and the share of OOD samples accepted, in percent, of one group.

    ``fpr`` is at the one threshold that keeps 95 % of all ID samples, not of the group's.
    """

    kind: str
    name: str
    n_id: int
    n_ood: int
    auroc: float
    low: float
    high: float
    fpr: float


def by_predicted_class(
    id_scores: Floats,
    id_predictions: NDArray[np.integer],
    ood_scores: Floats,
    ood_predictions: NDArray[np.integer],
    kind: str = "predicted class",
) -> list[GroupScore]:
    """ID against OOD samples that the network gives the same class, for every class with enough of both.

    A detector with a high AUROC over all may fail wherever one class attracts the OOD samples.
    """
    threshold = id_threshold(id_scores)
    groups = []
    for name in np.unique(ood_predictions):
        own_id, own_ood = id_scores[id_predictions == name], ood_scores[ood_predictions == name]
        groups += _scored(kind, str(name), own_id, own_ood, threshold)
    return groups


def by_ood_class(
    id_scores: Floats, ood_scores: Floats, ood_labels: NDArray[np.integer], kind: str = "OOD class"
) -> list[GroupScore]:
    """All ID samples against the OOD samples of each class; nothing where the list of an OOD set carries none (-1)."""
    threshold = id_threshold(id_scores)
    groups = []
    for name in np.unique(ood_labels[ood_labels >= 0]):
        groups += _scored(kind, str(name), id_scores, ood_scores[ood_labels == name], threshold)
    return groups


def worst(groups: Sequence[GroupScore], count: int = COUNT) -> list[GroupScore]:
    """The groups of lowest AUROC, the worst first."""
    return sorted(groups, key=lambda each: each.auroc)[:count]


def worst_groups(samples: Samples, setting: str) -> dict[str, list[GroupScore]]:
    """The five worst of all groups and networks, by detector.

    Predicted classes are taken over all sets of near- or far-OOD, classes of OOD samples over each set that has them.
    """
    groups = samples.groups(METRIC_COLUMNS["auroc"], setting)
    found = {}
    for detector, by_network in samples.scores.items():
        own: list[GroupScore] = []
        for place, scores in enumerate(by_network):
            network = f" {samples.networks[place]}" if len(samples.networks) > 1 else ""
            predictions, labels = samples.predictions[place], samples.labels[place]
            for group, pairings in groups.items():
                id_splits, ood_splits = pairings[0].id_splits, [each.ood_split for each in pairings]
                id_scores = _joined(scores, id_splits)
                own += by_predicted_class(
                    id_scores,
                    _joined(predictions, id_splits),
                    _joined(scores, ood_splits),
                    _joined(predictions, ood_splits),
                    f"predicted class, {group}{network}",
                )
                for split in ood_splits:
                    own += by_ood_class(id_scores, scores[split], labels[split], f"OOD class, {split}{network}")
        found[detector] = worst(own)
    return found


def _joined(by_split: Mapping[str, NDArray[Any]], splits: Sequence[str]) -> NDArray[Any]:
    return np.concatenate([by_split[split] for split in splits])


def id_threshold(id_scores: Floats) -> float:
    """The highest ID score such that at least 95 % of the ID samples score as high."""
    ascending = np.sort(id_scores)
    shares = 1 - np.searchsorted(ascending, ascending, side="left") / len(ascending)
    return float(ascending[np.flatnonzero(shares >= ID_ACCEPTED)[-1]])


def _scored(kind: str, name: str, id_scores: Floats, ood_scores: Floats, threshold: float) -> list[GroupScore]:
    if min(len(id_scores), len(ood_scores)) < LEAST:
        return []
    parts = components(id_scores[None], ood_scores[None])
    auroc, error = float(parts.aurocs[0]), float(np.sqrt(covariance([parts], [len(id_scores)])[0, 0]))
    low, high = np.clip(auroc + error * norm.ppf([0.025, 0.975]), 0, 1)
    percent = [100 * float(value) for value in (auroc, low, high, np.mean(ood_scores >= threshold))]
    return [GroupScore(kind, name, len(id_scores), len(ood_scores), *percent)]
