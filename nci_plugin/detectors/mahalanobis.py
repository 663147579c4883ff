"""Mahalanobis++: Mahalanobis distances of features of length 1 (Mueller & Hein, ICML 2025)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from nci_plugin.checks import PluginError
from nci_plugin.collapse.geometry import lengths, nearest_bias, present_classes, whitening
from nci_plugin.collapse.variability import within_covariance
from nci_plugin.detectors.base import FLOAT32_STEP, Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.networks.head import LinearHead


@register_detector
class MDSPlusPlus(Detector):
    """MDS++: score = -min_k (f - mu_k)^T pinv(Sigma_W) (f - mu_k), f = h / ||h||_2, at most 0 (Mueller & Hein 2025).

    mu_k are the class means of the training set's f and Sigma_W their covariance within classes, pooled over all
    samples and divided by their number. Directions in which Sigma_W has less than 1e-12 of its largest variance are
    left out, and so are classes without training samples. Computed in float64.
    """

    name = "mds_pp"
    display = "MDS++"
    paper = Paper(
        "Mahalanobis++: Improving OOD Detection via Feature Normalization",
        "Mueller & Hein",
        "ICML",
        2025,
        "https://arxiv.org/abs/2505.18032",
    )
    formula = 2
    fits_on = FitsOn.UNIT_STATISTICS
    per_row = "P P"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.whitening_ = whitening(within_covariance(training))  # (P, rank)
        self._check_directions(training)
        self.mean_ = training.global_mean
        self.centres_ = (training.means[present_classes(training)] - self.mean_) @ self.whitening_
        self.bias_ = nearest_bias(self.centres_)

    def _check_directions(self, training: ClassStatistics) -> None:
        if training.covariance.trace() <= FLOAT32_STEP**2:
            raise PluginError(
                f"detector '{self.name}': all training features have the same direction; leave this detector out"
            )

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        x = (unit_rows(features) - self.mean_) @ self.whitening_
        return in_range_of(-squared_distance(x, self.centres_, self.bias_), like=logits)


@register_detector
class RMDSPlusPlus(MDSPlusPlus):
    """RMDS++: score = d_0(f) - min_k d_k(f), f = h / ||h||_2 (Mueller & Hein 2025; Ren et al. 2021).

    d_k(f) = (f - mu_k)^T pinv(Sigma_W) (f - mu_k) as in MDS++, and d_0(f) = (f - mu)^T pinv(Sigma) (f - mu) with the
    mean and the covariance of all training samples, whatever their class. Where all classes have one mean both are the
    same distance and every score is 0. Raises PluginError where Sigma_W has a lower rank than Sigma: the distances are
    then of different spaces, and their difference can rank OOD samples first.
    """

    name = "rmds_pp"
    display = "RMDS++"
    formula = 3
    per_row = "P K"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        """Whitened by Sigma_W, Sigma is I + B with B = sum_k n_k / N (mu_k - mu)(mu_k - mu)^T, so that the distances
        differ only in the span of the class means, along whose axes I + B is diagonal.
        """
        whiten = whitening(within_covariance(training))
        self._check_directions(training)
        present = present_classes(training)
        self.is_zero_ = not means_differ(training.means[present])
        within, over_all = whiten.shape[1], whitening(training.covariance).shape[1]
        if within < over_all and not self.is_zero_:
            raise PluginError(
                f"detector '{self.name}': features vary within classes in {within} directions and over all samples in"
                f" {over_all}, so its two distances cannot be compared; add training images, or leave it out"
            )
        self.mean_ = training.global_mean
        means = (training.means[present] - self.mean_) @ whiten
        share = training.counts[present] / training.counts.sum()
        _, spread, axes = torch.linalg.svd(share.sqrt()[:, None] * means, full_matrices=False)
        self.variances_ = 1 + spread.square()
        self.axes_ = whiten @ axes.T  # (P, min(K, rank))
        self.centres_ = means @ axes.T
        self.bias_ = nearest_bias(self.centres_)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        if self.is_zero_:
            return torch.zeros_like(logits[:, 0])
        x = (unit_rows(features) - self.mean_) @ self.axes_
        background = (x.square() / self.variances_).sum(dim=1)
        return in_range_of(background - squared_distance(x, self.centres_, self.bias_), like=logits)


def squared_distance(rows: Tensor, centres: Tensor, bias: Tensor) -> Tensor:
    """From each row (n, P) to the nearest of centres (K, P) with their `nearest_bias`, (n,)."""
    nearest = linear(rows, centres, bias).argmax(dim=1)
    return (rows - centres.index_select(0, nearest)).square().sum(dim=1)


def means_differ(means: Tensor) -> bool:
    """Whether class means (K, P) differ by more than rounding; if not, a relative distance is zero by definition."""
    return bool(lengths(means - means[0]).max() > FLOAT32_STEP * lengths(means).max())


def class_means(training: FeatureSplit, num_classes: int) -> Tensor:
    """Means (K, P) of the classes that have training samples, in float64."""
    sums = torch.zeros(num_classes, training.num_features, dtype=torch.float64)
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for chunk in training.chunks():
        labels = chunk.labels.cpu()
        sums.index_add_(0, labels, chunk.features.cpu().double())
        counts += torch.bincount(labels, minlength=num_classes)
    return sums[counts > 0] / counts[counts > 0, None]
