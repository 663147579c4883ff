"""What the training statistics are too thin for, said before anyone reads a score that stands on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import RCOND
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.statistics import ClassStatistics

STATISTICS = "training_statistics"
"""The key of `thin_statistics` in a row's provenance."""


def thin_statistics(bank: FeatureBank) -> dict[str, int]:
    """Classes K, features P, classes without and with one training image, and the rank of Sigma_W; empty if unknown.

    The rank is at most N less the classes that came. Where that is P and more it is counted: eigenvalues above 1e-12 of
    the largest.
    """
    statistics = bank.statistics or bank.unit_statistics
    if statistics is None:
        return {}
    counts = statistics.counts
    return {
        "classes": statistics.num_classes,
        "features": statistics.num_features,
        "classes_without_image": int((counts == 0).sum()),
        "classes_with_one_image": int((counts == 1).sum()),
        "within_rank": within_rank(statistics),
    }


def within_rank(statistics: ClassStatistics) -> int:
    """The rank of the covariance within classes, 0 to P."""
    most = int(statistics.num_samples - (statistics.counts > 0).sum())
    if most <= 0:
        return 0
    variances = torch.linalg.eigvalsh(statistics.within_scatter)
    return min(most, int((variances > RCOND * variances[-1]).sum())) if variances[-1] > 0 else 0


def counted(labels: Tensor, num_classes: int) -> dict[str, int]:
    """Of the labels (n,) of a training list: classes, those without and with one image, and a bound on the rank."""
    counts = torch.bincount(labels, minlength=num_classes)
    return {
        "classes": num_classes,
        "classes_without_image": int((counts == 0).sum()),
        "classes_with_one_image": int((counts == 1).sum()),
        "within_rank": int(counts.sum() - (counts > 0).sum()),
    }


def sentence(found: Mapping[str, int]) -> str:
    """What is thin, in one line; empty where nothing is. Without ``features`` the rank is said only where it is 0."""
    said = []
    classes, features = found.get("classes", 0), found.get("features")
    for key, what in (("classes_without_image", "no training image"), ("classes_with_one_image", "a single one")):
        if found.get(key):
            said.append(f"{found[key]} of {classes} classes have {what}")
    rank = found.get("within_rank", 0)
    if found and (rank < features if features else rank == 0):
        said.append(f"the covariance within classes has rank {rank}{f' in {features} dimensions' if features else ''}")
    if features and classes > features:
        said.append(f"there are more classes ({classes}) than features ({features})")
    return "; ".join(said)
