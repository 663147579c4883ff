"""Where a detector is worst: by the class that the network predicts, and by the class of the OOD samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nci_plugin.comparison.delong import components, covariance, interval
from nci_plugin.comparison.samples import Samples
from nci_plugin.metrics.columns import ID_ACCEPTED, METRIC_COLUMNS
from nci_plugin.metrics.counts import Floats

LEAST = 20
"""Groups with fewer ID or OOD samples are left out: the worst of many tiny groups would be an accident."""

COUNT = 5


@dataclass(frozen=True)
class GroupScore:
    """AUROC with its standard error by DeLong, and the share of OOD samples accepted, in percent, of one group.

    ``fpr`` is at the one threshold that keeps 95 % of all ID samples, not of the group's. ``low`` and ``high`` are NaN
    until `worst` knows of how many groups this one is.
    """

    kind: str
    name: str
    n_id: int
    n_ood: int
    auroc: float
    error: float
    fpr: float
    low: float = float("nan")
    high: float = float("nan")


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
    """The groups of lowest AUROC, the worst first, with intervals that hold for all ``groups`` at once at 95 %.

    Who is the worst of many is partly unlucky; an interval that is right for a group picked beforehand (Bonferroni
    makes it wider) would be too high for it.
    """
    lowest = sorted(groups, key=lambda each: each.auroc)[:count]
    if not lowest:
        return []
    aurocs, errors = np.array([[each.auroc, each.error] for each in lowest]).T / 100
    bounds = interval(aurocs, errors * -ndtri(0.025 / len(groups)))
    return [replace(each, low=100 * float(low), high=100 * float(high)) for each, low, high in zip(lowest, *bounds)]


def worst_groups(samples: Samples, setting: str) -> dict[str, list[GroupScore]]:
    """The five worst of all groups and networks, by detector.

    Predicted classes are taken over all sets of near- or far-OOD, classes of OOD samples over each set that has them.
    Raises PluginError where predictions and labels are missing.
    """
    samples.check_classes()
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
    percent = [100 * float(value) for value in (auroc, error, np.mean(ood_scores >= threshold))]
    return [GroupScore(kind, name, len(id_scores), len(ood_scores), *percent)]
