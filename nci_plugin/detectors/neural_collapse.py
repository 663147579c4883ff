"""One score per sample for each property of neural collapse, NC1 to NC5, so that a benchmark says which one separates.

Each is computed in float64 and returned in the type of the logits, clipped to its range. Only classes with training
samples have a mean: where a score needs that of the predicted class c, c is the largest logit among those.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from nci_plugin.checks import PluginError
from nci_plugin.collapse.geometry import (
    between_directions,
    centred_means,
    global_mean,
    lengths,
    nearest_bias,
    present_classes,
    whitening,
)
from nci_plugin.collapse.variability import within_covariance
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.neco import NECO
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, quotient
from nci_plugin.networks.head import LinearHead

NEURAL_COLLAPSE = Paper(
    "Prevalence of neural collapse during the terminal phase of deep learning training",
    "Papyan, Han & Donoho",
    "PNAS",
    2020,
    "https://arxiv.org/abs/2008.08186",
)


@register_detector
class NC1(Detector):
    """Collapse of variability: score = -sqrt((h - mu_c)^T pinv(Sigma_W) (h - mu_c)), at most 0 (Papyan et al. 2020).

    The distance to the mean of the predicted class c in units of the covariance within classes, pooled over them.
    Directions in which Sigma_W has less than 1e-12 of its largest variance are left out. Lee et al. 2018 take the
    nearest class in its place.
    """

    name = "nc1"
    display = "NC1 score"
    paper = NEURAL_COLLAPSE
    fits_on = FitsOn.STATISTICS
    per_row = "P P"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.classes_ = present_classes(training)
        self.means_ = training.means[self.classes_]
        self.whitening_ = whitening(within_covariance(training))  # (P, rank)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        offsets = features.double() - self.means_.index_select(0, _predicted(logits, self.classes_))
        return in_range_of(-lengths(offsets @ self.whitening_), like=logits)


@register_detector
class NC2(Detector):
    """Collapse of means: score = ||V^T (h - mu_G)||_2 / ||h - mu_G||_2, 0 to 1 (Papyan et al. 2020).

    V (P, rank) is an orthonormal basis of the span of the centred class means mu_k - mu_G, and mu_G the unweighted mean
    of the class means: the share of the centred feature's length inside that span. At h = mu_G the score is 0.
    Where the span is the whole space (K > P) every score would be 1, and `fit` raises PluginError.
    """

    name = "nc2"
    display = "NC2 score"
    paper = NEURAL_COLLAPSE
    fits_on = FitsOn.STATISTICS
    per_row = "K P"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        _, vectors = between_directions(centred_means(training))
        if len(vectors) == training.num_features:
            raise PluginError(
                f"detector '{self.name}': the class means span all {training.num_features} features, so that no part"
                " of a feature lies outside; leave this detector out"
            )
        self.mean_, self.basis_ = global_mean(training), vectors.T

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        centred = features.double() - self.mean_
        return quotient(lengths(centred @ self.basis_), lengths(centred)).to(logits)


@register_detector
class NC3(Detector):
    """Self-duality: score = cos(w_c, h - mu_G), -1 to 1, c = argmax z (Papyan et al. 2020).

    mu_G is the unweighted mean of the class means. At h = mu_G or w_c = 0 the score is 0.
    """

    name = "nc3"
    display = "NC3 score"
    paper = NEURAL_COLLAPSE
    fits_on = FitsOn.STATISTICS
    per_row = "K P"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.mean_, self.weight_ = global_mean(training), head.weight.detach().double()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        centred = features.double() - self.mean_
        weight = self.weight_.index_select(0, logits.argmax(dim=1))
        return quotient((centred * weight).sum(dim=1), lengths(centred) * lengths(weight)).to(logits)


@register_detector
class NC4(Detector):
    """Nearest class centre: score = min_{k != c} ||h - mu_k||_2 - ||h - mu_c||_2, c predicted (Papyan et al. 2020).

    The margin by which the mean of the predicted class is the nearest: at least 0 where the nearest class centre agrees
    with the network's linear decision, negative where it does not. In the unit of the features. Needs two classes.
    """

    name = "nc4"
    display = "NC4 score"
    formula = 2
    paper = NEURAL_COLLAPSE
    fits_on = FitsOn.STATISTICS
    per_row = "K P"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.classes_ = present_classes(training)
        if len(self.classes_) < 2:
            raise PluginError(
                f"detector '{self.name}': needs training samples of two classes, got one; leave this detector out"
            )
        if not centred_means(training).any():
            raise PluginError(
                f"detector '{self.name}': all classes have the same mean, so that none is nearer; leave this detector"
                " out"
            )
        self.mean_ = global_mean(training)
        self.offsets_ = training.means[self.classes_] - self.mean_
        self.bias_ = nearest_bias(self.offsets_)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        h, own = features.double() - self.mean_, _predicted(logits, self.classes_)
        other = linear(h, self.offsets_, self.bias_).scatter(1, own[:, None], -torch.inf).argmax(dim=1)
        to_other, to_own = (lengths(h - self.offsets_.index_select(0, each)) for each in (other, own))
        return in_range_of(to_other - to_own, like=logits)


@register_detector
class NC5(NECO):
    """Orthogonality of ID and OOD: score = ||P_d v||_2 / ||u||_2 (Ammar et al. 2024), which is NECO by another name."""

    name = "nc5"
    display = "NC5 score"
    per_row = "P P"


def _predicted(logits: Tensor, classes: Tensor) -> Tensor:
    """Position in ``classes`` of the largest logit among them, (n,)."""
    return logits.index_select(1, classes).argmax(dim=1)
