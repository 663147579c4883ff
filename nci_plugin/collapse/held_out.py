"""What needs features beside the statistics: NC4 on any ID split, CDNV on a held-out one, NC5 of OOD samples.

Splits are streamed: never more than one chunk of features is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.collapse.geometry import centre_distances, directions, present_classes
from nci_plugin.collapse.registry import EPOCHS, metric
from nci_plugin.collapse.variability import nc1_cdnv
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.rows import whole_labels


@dataclass(frozen=True)
class NearestCentre:
    """The nearest class mean as a classifier, shares in 0..1.

    ``agreement`` with the network's decision is NC4, 1 at collapse; ``accuracy`` is against the labels, for ID splits.
    """

    agreement: float
    accuracy: float


def nearest_centre(split: FeatureSplit, statistics: ClassStatistics) -> NearestCentre:
    """NC4: share of samples with argmax_k z_k = argmin_k ||h - mu_k|| (Papyan et al. 2020), and that rule's accuracy.

    The split's logits z are the network's, bias included; ``statistics`` are of the training set, so NC4 on training
    features is a second pass over them. A class that never came has no centre: a sample that the network puts there
    disagrees. Raises PluginError on an empty split or another width.
    """
    classes = present_classes(statistics)
    centres = statistics.means[classes]
    agreeing = right = 0
    for chunk in _chunks(split, statistics.num_features):
        nearest = classes[centre_distances(chunk.features, centres).argmin(dim=1)]
        agreeing += int((nearest == chunk.logits.argmax(dim=1)).sum())
        right += int((nearest == whole_labels("collapse", chunk.labels, len(nearest))).sum())
    return NearestCentre(agreeing / len(split), right / len(split))


@metric("NC4 agreement", "NC4", of="training statistics", ideal=1, larger=True, along=(EPOCHS,))
def nc4_train(split: FeatureSplit, statistics: ClassStatistics) -> float:
    """NC4 of the training features themselves, 0..1: `nearest_centre`'s agreement (Papyan et al. 2020)."""
    return nearest_centre(split, statistics).agreement


@metric("NC1 CDNV", of="held_out num_classes", ideal=0)
def held_out_cdnv(split: FeatureSplit, num_classes: int) -> float:
    """CDNV of a held-out ID split, about its own class means (Galanti et al. 2022); see `nc1_cdnv`."""
    _check_not_empty(split)
    statistics = ClassStatistics(num_classes, split.num_features)
    for chunk in split.chunks():
        statistics.update(chunk.features, chunk.labels)
    return nc1_cdnv(statistics)


@metric("NC5 OrthoDev", "OrthoDev", of="split statistics", ideal=0)
def ortho_dev(split: FeatureSplit, statistics: ClassStatistics) -> float:
    """NC5, orthogonality deviation: mean_k |cos(mu_k, mu_OOD)|, neither centred (Ammar et al. 2024).

    From 0, the mean of the OOD split is orthogonal to every class mean, to 1. Raises PluginError on an empty split or
    another width, Undefined where a mean is zero.
    """
    total = torch.zeros(statistics.num_features, dtype=torch.float64)
    for chunk in _chunks(split, statistics.num_features):
        total += chunk.features.sum(dim=0, dtype=torch.float64)
    means = statistics.means[present_classes(statistics)]
    return float((directions(means) @ directions(total[None])[0]).abs().mean())


def _chunks(split: FeatureSplit, num_features: int) -> Iterator[Chunk]:
    _check_not_empty(split)
    for chunk in split.chunks():
        check_width("collapse", chunk.features, num_features)
        check_finite("collapse", chunk.features)
        yield chunk


def _check_not_empty(split: FeatureSplit) -> None:
    if not len(split):
        raise PluginError("collapse: the split holds no sample; extract it first")
