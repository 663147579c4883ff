"""The cosine of pScore with the length that goes with it: that of the metric within classes. Of this package.

In a linear discriminant head (Gaussian classes of one covariance Sigma) w_c = Sigma^-1 (mu_c - mu_G), up to a shift
that all classes share. So w_c . (h - mu_G) is an inner product in the metric of Sigma^-1; pScore divides it by a
Euclidean length, these detectors by the length in that metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import ROUNDING, lengths, present_classes
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, quotient, unit_rows
from nci_plugin.networks.head import LinearHead


def shrunk_covariance(scatter: Tensor, freedom: float) -> tuple[Tensor, float]:
    """Sigma = (1 - rho) S + rho tr(S)/P I, S = scatter / freedom, and rho, by OAS (Chen et al. 2010, eq. 23).

    ``freedom``: degrees of freedom of the scatter (P, P). The fewer there are against P, the nearer rho is to 1.
    Raises nothing: a scatter of zero gives zero.
    """
    width = len(scatter)
    covariance = scatter / freedom
    trace, squares = covariance.trace(), covariance.square().sum()
    excess = squares - trace.square() / width  # 0 where all directions vary alike
    rho = ((1 - 2 / width) * squares + trace.square()) / ((freedom + 1 - 2 / width) * excess)
    rho = torch.nan_to_num(rho, nan=1.0, posinf=1.0).clamp(0, 1)
    return (1 - rho) * covariance + rho * trace / width * torch.eye(width, dtype=scatter.dtype), float(rho)


@dataclass(frozen=True)
class ClassDirections:
    """Directions d_c (K, P) of the classes as seen from ``mean`` (P,), and the metric A = Sigma^-1 = T T^T, T (P, P).

    ``spread`` is t of `class_directions`; ``freedom`` says from how many residuals Sigma comes, 0 where
    there are none and A is the identity. ``residuals`` (n, P), whitened, are those of the validation samples, and
    ``share`` is what one of them has in Sigma.
    """

    mean: Tensor
    directions: Tensor
    factor: Tensor
    spread: float
    freedom: int
    residuals: Tensor
    share: float


def class_directions(
    training: ClassStatistics, head: LinearHead, validation: tuple[Tensor, Tensor] | None = None
) -> ClassDirections:
    """The directions between Sigma w_c and mu_c - mu_G that the data support, and the metric within classes.

    Sigma is `shrunk_covariance` of the residuals h - mu_y of the training set, N - K of them, and of those of
    ``validation`` if given: features (n, P) and predicted classes (n,) of ID samples, whose residual to the mean of
    their predicted class counts 1 / (1 + 1/n_c), since that mean has the variance of one sample over n_c. Where class c
    has no training sample, a_0 w_c stands for its mean (a_0: least squares of mu_k - mu_G on w_k). Without any residual
    that varies, Sigma is the identity.

    Of mu_c - mu_G a prior N(a Sigma w_c, t Sigma) is taken, and the sample mean is N(., Sigma / n_c) about it
    (empirical Bayes, Morris 1983): d_c = a Sigma w_c + r_c (mu_c - mu_G - a Sigma w_c), r_c = t n_c / (t n_c + 1). a is
    the least squares of the means on Sigma w_c in the metric, weighted by n_c, and t is what is left over of the mean
    square distance of both, over P, once the sampling noise is taken off. Many samples give mu_c - mu_G, none
    a Sigma w_c, along which the score is w_c . (h - mu_G) over a length; so does a d_c of zero.
    """
    present_classes(training)
    counts, means, mean = training.counts, training.means, training.global_mean
    weight = head.weight.double()
    rounding = ROUNDING * lengths(means).max()
    offsets = means - mean
    offsets = torch.where(((counts > 0) & (lengths(offsets) > rounding))[:, None], offsets, 0.0)

    def scale(inner: Tensor, squares: Tensor) -> float:
        total = float((counts * squares).sum())
        return max(0.0, float((counts * inner).sum()) / total) if total > 0 else 0.0

    inner = (offsets * weight).sum(dim=1)
    scatter, freedom = training.within_scatter.clone(), int(training.num_samples - (counts > 0).sum())
    residuals = means[:0]
    if validation is not None:
        rows, predicted = validation
        euclidean = scale(inner, weight.square().sum(dim=1))
        centres = mean + torch.where(counts[:, None] > 0, offsets, euclidean * weight)
        weights = torch.where(counts > 0, counts / (counts + 1), 1.0)
        residuals = (rows - centres[predicted]) * weights[predicted, None].sqrt()
        scatter += residuals.T @ residuals
        freedom += len(rows)
    rho = 1.0
    if freedom > 0 and scatter.trace() / freedom > rounding.square():
        covariance, rho = shrunk_covariance(scatter, freedom)
    else:
        freedom, covariance = 0, torch.eye(head.num_features, dtype=torch.float64)
    variances, vectors = torch.linalg.eigh(covariance)
    factor = vectors / variances.clamp(min=1e-12 * float(variances[-1])).sqrt()
    along = weight @ covariance  # Sigma w_c: its length in the metric is w_c . Sigma w_c
    a = scale(inner, (along * weight).sum(dim=1))
    left = offsets - a * along
    t, kept = 0.0, torch.zeros_like(counts)
    if freedom > 0:
        distances = (left @ factor).square().sum(dim=1)[counts > 0] / head.num_features
        t = max(0.0, float(distances.mean() - (1 / counts[counts > 0]).mean()))
        kept = t * counts / (t * counts + 1)
    directions = a * along + kept[:, None] * left
    directions = torch.where(lengths(directions)[:, None] > 0, directions, along)  # one class, or all of one mean
    share = (1 - rho) / max(freedom, 1)
    return ClassDirections(mean, directions, factor, t, freedom, residuals @ factor, share)


def cosines(offsets: Tensor, directions: Tensor) -> Tensor:
    """Cosine (n,) of rows (n, P) each; 0 where a row has no length."""
    return quotient((offsets * directions).sum(dim=1), lengths(offsets) * lengths(directions))


@register_detector
class WhitenedCosine(Detector):
    """Score = cos_A(h - mu_G, d_c), A = Sigma_W^-1, c = argmax z, in -1..1 (nci_plugin 2026, after Liu & Qin 2025).

    d_c is mu_c - mu_G where class c has many training samples and a Sigma_W w_c where it has few: `class_directions`.
    Sigma_W is the covariance within classes, shrunk by OAS; where no class has two training samples the metric is the
    identity and the score cos(w_c, h - mu_G), pScore without the length of w_c. Computed in float64.
    """

    name = "whitened_cosine"
    display = "Whitened cosine"
    paper = Paper(
        "The cosine of pScore in the metric within classes",
        "nci_plugin, after Liu & Qin",
        "this package",
        2026,
        "https://arxiv.org/abs/2311.01479",
    )
    fits_on = FitsOn.STATISTICS
    per_row = "P P"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        found = class_directions(training, head)
        self.mean_, self.factor_, self.directions_ = found.mean, found.factor, found.directions @ found.factor

    def _rows(self, features: Tensor) -> Tensor:
        return features.double()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        rows = self._rows(features)
        offsets = (rows - self.mean_) @ self.factor_
        directions = self.directions_.index_select(0, logits.argmax(dim=1))
        return in_range_of(cosines(offsets, directions), like=logits)


@register_detector
class WhitenedCosinePlusPlus(WhitenedCosine):
    """Score = cos_A(f - mu_G, d_c), f = h / ||h||_2, as `WhitenedCosine` with the statistics of f (nci_plugin 2026)."""

    name = "whitened_cosine_pp"
    display = "Whitened cosine++"
    fits_on = FitsOn.UNIT_STATISTICS

    def _rows(self, features: Tensor) -> Tensor:
        return unit_rows(features)
