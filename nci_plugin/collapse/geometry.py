"""Class means about their centre, directions and distances, in float64: what the equations of collapse share.

``rows`` are vectors of K classes, (K, P): class means, or rows of the last layer's weight. Only classes that came are
among them, so K is their number everywhere. An equation that has no value for its input raises `Undefined`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_choice
from nci_plugin.features.statistics import ClassStatistics

MEAN_CONVENTIONS = ("classes", "samples")
"""mu_G: the unweighted mean of the class means (Papyan et al. 2020), or the mean of all samples."""

RCOND = 1e-12
"""An eigenvalue of a covariance below this times its largest is rounding: a millionth in length, float32's own."""

ROUNDING = 1e-12
"""A length below this times the largest class mean is rounding of the means, which are sums in float64."""


class Undefined(PluginError):
    """A metric has no value on these features; the message is the reason, in one line."""


def present_classes(statistics: ClassStatistics) -> Tensor:
    """Classes that have samples, (K,), ascending.

    Raises PluginError where no class has any, and where squares of the features are beyond float64.
    """
    classes = statistics.counts.nonzero()[:, 0]
    if not len(classes):
        raise PluginError("collapse: the statistics hold no sample; update them with training features first")
    if not torch.isfinite(statistics.within_scatter.trace() + statistics.means.square().sum()):
        raise PluginError("collapse: squares of the features are beyond float64; scale the features")
    return classes


def global_mean(statistics: ClassStatistics, mean: str = "classes") -> Tensor:
    """mu_G (P,) by one of MEAN_CONVENTIONS; absent classes do not count."""
    check_choice("collapse: mean", mean, MEAN_CONVENTIONS)
    classes = present_classes(statistics)
    return statistics.global_mean if mean == "samples" else statistics.means[classes].mean(dim=0)


def centred_means(statistics: ClassStatistics, mean: str = "classes") -> Tensor:
    """M: mu_k - mu_G of the classes that came, (K, P); a row that is nothing but rounding is set to zero."""
    means = statistics.means[present_classes(statistics)]
    centred = means - global_mean(statistics, mean)
    return torch.where(lengths(centred)[:, None] > ROUNDING * lengths(means).max(), centred, 0.0)


def between_directions(centred: Tensor, rcond: float = RCOND) -> tuple[Tensor, Tensor]:
    """Singular values (r,) and right singular vectors (r, P) of M (K, P), r its rank.

    The squares of the values over K are the eigenvalues of Sigma_B = M^T M / K, and the vectors its eigenvectors. Those
    whose eigenvalue is at most ``rcond`` times the largest are left out. Raises Undefined where M is zero.
    """
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    kept = values.square() > rcond * values[0].square()
    if not kept.any():
        raise Undefined("collapse: the class means are all equal, so nothing varies between classes")
    return values[kept], vectors[kept]


def whitening(covariance: Tensor) -> Tensor:
    """T (P, rank) with T T^T = pinv(covariance): ||T^T x||_2 is the length of x in units of the covariance (P, P).

    Directions whose variance is at most RCOND times the largest are left out. Raises Undefined where all are.
    """
    variances, vectors = torch.linalg.eigh(covariance)
    kept = variances > RCOND * variances[-1]
    if not kept.any():
        raise Undefined("collapse: the features do not vary within classes, so distances have no unit")
    return vectors[:, kept] / variances[kept].sqrt()


def lengths(rows: Tensor) -> Tensor:
    """Euclidean lengths, (K,)."""
    return torch.linalg.vector_norm(rows, dim=1)


def directions(rows: Tensor) -> Tensor:
    """Rows divided by their lengths; raises Undefined on a row of length 0."""
    length = lengths(rows)
    if not length.all():
        raise Undefined(f"collapse: {int((length == 0).sum())} of {len(rows)} vectors have length 0, so no direction")
    return rows / length[:, None]


def pair_distances(rows: Tensor) -> Tensor:
    """Distances between all pairs k < k' in the order of torch.triu_indices, (K (K - 1) / 2,)."""
    _check_pairs(rows)
    return torch.pdist(rows)  # from differences, so that close rows keep their digits


def chords(rows: Tensor) -> Tensor:
    """Distances between the directions of all pairs, 0 to 2, in the order of `pair_distances`.

    A chord of length c spans the angle 2 arcsin(c / 2); the arccos of a cosine would lose small angles.
    """
    return pair_distances(directions(rows))


def pair_cosines(rows: Tensor) -> Tensor:
    """Cosines between all pairs k < k' in the order of torch.triu_indices, (K (K - 1) / 2,)."""
    _check_pairs(rows)
    unit = directions(rows)
    first, second = torch.triu_indices(len(rows), len(rows), offset=1)
    return (unit @ unit.T)[first, second]


def centre_distances(features: Tensor, centres: Tensor) -> Tensor:
    """||h_i - mu_k|| of features (n, P) and float64 centres (K, P): (n, K) in float64."""
    origin = centres.mean(dim=0)  # torch.cdist expands squares: far from the origin they would cancel
    return torch.cdist(features.double() - origin, centres - origin)


def nearest_bias(centres: Tensor) -> Tensor:
    """b (K,) for centres c (K, P): the nearest to a row r is argmax_k r . c_k + b_k, since b_k = -||c_k||^2 / 2.

    All are float64 and about an origin among the centres. Only for the choice of the nearest: a distance made of
    squares would cancel.
    """
    return -centres.square().sum(dim=1) / 2


def _check_pairs(rows: Tensor) -> None:
    if len(rows) < 2:
        raise Undefined(f"collapse: pairs need two classes, got {len(rows)}")
