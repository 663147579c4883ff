"""Mahalanobis distances of features of another length (Janiak, Binkowski & Kajdanowicz, CAO 2026)."""

from __future__ import annotations

from torch import Tensor

from nci_plugin.checks import check_number
from nci_plugin.collapse.geometry import lengths, nearest_bias, present_classes, whitening
from nci_plugin.collapse.variability import within_covariance
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.mahalanobis import squared_distance
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, quotient
from nci_plugin.networks.head import LinearHead


@register_detector
class MDSRadial(Detector):
    """Score = -min_k (f - mu_k)^T pinv(Sigma_W) (f - mu_k), f = h / ||h||_2^exponent, at most 0 (Janiak et al. 2026).

    mu_k and Sigma_W are those of f, as in MDS++, which is ``exponent`` = 1; 0 is the plain Mahalanobis distance. The
    paper chooses the exponent (its beta) by the geometry of ID features, by a rule that was not at hand: here it is
    a number, or searched on the validation splits. Whatever the unit of the lengths, the distances are the same.
    """

    name = "mds_radial"
    display = "MDS radial"
    paper = Paper(
        "A Geometry-Based View of Mahalanobis OOD Detection",
        "Janiak et al.",
        "CAO",
        2026,
        "https://arxiv.org/abs/2510.15202",
    )
    formula = 2
    fits_on = FitsOn.BANK
    fit_reads = ("exponent",)
    per_row = "P P"

    def __init__(self, exponent: float = 1.0) -> None:
        self.exponent = exponent

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': exponent", self.exponent)

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        total = sum(float(lengths(chunk.features.double()).sum()) for chunk in training.chunks())
        self.length_ = total / len(training) or 1.0
        statistics = ClassStatistics(head.num_classes, head.num_features, head.weight.device)
        for chunk in training.chunks():
            statistics.update(self._radial(chunk.features), chunk.labels)
        self.whitening_ = whitening(within_covariance(statistics))
        self.mean_ = statistics.global_mean
        self.centres_ = (statistics.means[present_classes(statistics)] - self.mean_) @ self.whitening_
        self.bias_ = nearest_bias(self.centres_)

    def _radial(self, features: Tensor) -> Tensor:
        """h / ||h||^exponent of rows (n, P), the length in units of the mean of the training samples."""
        rows = features.double() / self.length_
        return quotient(rows, lengths(rows)[:, None] ** self.exponent)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        x = (self._radial(features) - self.mean_) @ self.whitening_
        return in_range_of(-squared_distance(x, self.centres_, self.bias_), like=logits)
