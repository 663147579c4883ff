"""NC1, the collapse of the variability within classes: 0 at exact collapse, unchanged when the features are scaled."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import ROUNDING, Undefined, centred_means, lengths, pair_distances, present_classes
from nci_plugin.collapse.registry import EPOCHS, STAGES, metric
from nci_plugin.features.statistics import ClassStatistics


def within_covariance(statistics: ClassStatistics) -> Tensor:
    """Sigma_W = (1/N) sum_i (h_i - mu_{y_i}) (h_i - mu_{y_i})^T, (P, P), pooled over the samples of all classes.

    A class of one sample adds nothing to the sum, though it counts in N. Where features vary by no more than rounding
    of their means it is zero. Raises Undefined where no class has two.
    """
    classes = present_classes(statistics)
    if statistics.counts.max() < 2:
        raise Undefined("collapse: variance within classes needs a class of two samples, every class has at most one")
    covariance = statistics.within_scatter / statistics.num_samples
    rounding = ROUNDING * lengths(statistics.means[classes]).max()
    return torch.where(covariance.trace() > rounding.square(), covariance, 0.0)


@metric("NC1 Tr(Sigma_W) / Tr(Sigma_B)", "NC1", of="statistics mean", ideal=0, along=(EPOCHS, STAGES))
def nc1_quotient(statistics: ClassStatistics, mean: str = "classes") -> float:
    """Tr(Sigma_W) / Tr(Sigma_B), from 0 (collapse) up (Tirer et al. 2023)."""
    between = centred_means(statistics, mean).square().sum() / len(present_classes(statistics))
    if between == 0:
        raise Undefined("collapse: the class means are all equal, so nothing varies between classes")
    return float(within_covariance(statistics).trace() / between)


@metric("NC1 Tr(pinv(Sigma_B) Sigma_W) / K", "NC1 pinv", of="statistics between", ideal=0, along=(EPOCHS,))
def nc1_pinv(statistics: ClassStatistics, between: tuple[Tensor, Tensor]) -> float:
    """Tr(pinv(Sigma_B) Sigma_W) / K, from 0 (collapse) up (Papyan et al. 2020, whose figures leave out the 1/K).

    Sigma_B = M^T M / K, of which ``between`` are the `between_directions`, values (r,) and vectors (r, P). Only
    variance in the span of the centred class means counts.
    """
    values, vectors = between
    within = ((vectors @ within_covariance(statistics)) * vectors).sum(dim=1)
    return float((within / values.square()).sum())  # the K of 1/K and that of Sigma_B cancel


@metric("NC1 class-distance normalised variance", "CDNV", of="statistics", ideal=0, along=(EPOCHS, STAGES))
def nc1_cdnv(statistics: ClassStatistics) -> float:
    """Class-distance normalised variance: pairs' mean (v_k + v_k') / (2 ||mu_k - mu_k'||^2) (Galanti et al. 2022).

    From 0 (collapse) up. Classes of one sample have no variance and are left out. Raises Undefined where two means
    are equal.
    """
    variances = class_variances(statistics)
    several = variances.isfinite()
    means, variances = statistics.means[present_classes(statistics)][several], variances[several]
    distances = pair_distances(means)
    equal = int((distances <= ROUNDING * lengths(means).max()).sum())
    if equal:
        raise Undefined(f"collapse: {equal} of {len(distances)} pairs of classes have the same mean")
    first, second = torch.triu_indices(len(means), len(means), offset=1)
    return float(((variances[first] + variances[second]) / 2 / distances.square()).mean())


@metric("mean ||h - mu_k||^2", of="statistics", ideal=0, per_class=True)
def class_variances(statistics: ClassStatistics) -> Tensor:
    """v_k = mean ||h - mu_k||^2 over the samples of each class that came, (K,); NaN for a class of one sample."""
    classes = present_classes(statistics)
    counts = statistics.counts[classes]
    return torch.where(counts > 1, statistics.class_scatter_traces[classes] / counts, torch.nan)
