"""Lengths of the features themselves, not centred: in the unit of the features, and of no value at collapse."""

from __future__ import annotations

from torch import Tensor

from nci_plugin.collapse.geometry import present_classes
from nci_plugin.collapse.registry import EPOCHS, STAGES, metric
from nci_plugin.features.statistics import ClassStatistics


@metric("feature norm, mean ||h||_2", "||h||_2", of="statistics", aspect="feature norm", along=(EPOCHS, STAGES))
def mean_norm_l2(statistics: ClassStatistics) -> Tensor:
    """Mean ||h||_2 over all samples, from 0 up; the feature norm fn of arXiv 2604.00230."""
    return statistics.l2_norm_sums.sum() / statistics.counts.sum()


@metric("feature norm, mean ||h||_1", "||h||_1", of="statistics", aspect="feature norm, L1", along=(EPOCHS,))
def mean_norm_l1(statistics: ClassStatistics) -> Tensor:
    """Mean ||h||_1 over all samples, from 0 up."""
    return statistics.l1_norm_sums.sum() / statistics.counts.sum()


@metric("mean ||h||_2", of="statistics", aspect="feature norm", per_class=True)
def class_norms_l2(statistics: ClassStatistics) -> Tensor:
    """Mean ||h||_2 over the samples of each class that came, (K,)."""
    classes = present_classes(statistics)
    return statistics.l2_norm_sums[classes] / statistics.counts[classes]
