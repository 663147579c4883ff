"""NCI-G, a detector of this package: two angles rank, and a distance acts only beyond the tail of ID samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.collapse.geometry import lengths
from nci_plugin.detectors.base import FLOAT32_STEP, Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.detectors.whitened_cosine import class_directions
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, quotient, unit_rows
from nci_plugin.networks.head import LinearHead

Product = Callable[[Tensor, Tensor], Tensor]

TAIL = 0.05
"""The share of ID validation samples whose distance is large enough to count against them."""


@register_detector
class NCIGated(Detector):
    """NCI-G: score = (log p_1 + log p_2) / 2 + min(0, log p_3 - log 0.05), p_i = Phi((s_i - m_i) / sd_i), at most 0.

    s_1 = w_c . (h - m) / ||h - m||_2 is pScore about the mean m of ID validation features; s_2 = cos_A(f - mu_G, d_c)
    with f = h / ||h||_2 is the whitened cosine of features of length 1; s_3 = -||f - mu_G - d_c||_A^2 is minus a
    Mahalanobis distance to the predicted class. c = argmax z; mu_G, d_c and A = Sigma^-1 are those of
    `class_directions` for f, whose Sigma reads the training set and ID validation. m_i and sd_i are the mean and the
    standard deviation of s_i over ID validation, each sample by an A without its own residual: so p_i is about how rare
    so small an s_i is among ID samples.

    Angles rank: near-OOD samples lie between classes. A distance sees what is far, but ranks near-OOD samples badly; so
    it acts only beyond the 5 % tail of ID samples. No hyper-parameter, no OOD image (nci_plugin 2026, after
    Liu & Qin 2025; Mueller & Hein 2025). Computed in float64.
    """

    name = "nci_gated"
    display = "NCI-G"
    paper = Paper(
        "NCI-G: angles rank, and a distance acts beyond the tail of ID samples",
        "nci_plugin, after Liu & Qin",
        "this package",
        2026,
        "https://arxiv.org/abs/2311.01479",
    )
    fits_on = FitsOn.UNIT_STATISTICS
    memory: Mapping[str, float] = {"V P": 80}
    per_row = "P P"

    @property
    def needs_validation(self) -> bool:
        return True

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        assert validation is not None  # as it needs one
        if len(validation) < 2:
            raise PluginError(
                f"detector '{self.name}': calibrates on at least 2 samples of the ID validation split, got 1; add"
                " images to id/val"
            )
        features, predicted = validation.features.double(), validation.predictions
        self.centre_, self.weight_ = features.mean(dim=0), head.weight.double()
        found = class_directions(training, head, (unit_rows(features), predicted))
        self.mean_, self.factor_, self.directions_ = found.mean, found.factor, found.directions @ found.factor
        self.freedom_, self.spread_ = found.freedom, found.spread
        terms = self._terms(features, predicted, left_out_product(found.residuals, found.share))
        self.means_, deviations = terms.mean(dim=0), terms.std(dim=0)
        rounding = FLOAT32_STEP * terms.abs().amax(dim=0)
        self.deviations_ = torch.where(deviations > rounding, deviations, 1.0)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        terms = self._terms(features.double(), logits.argmax(dim=1))
        z = (terms - self.means_) / self.deviations_
        p_score, cosine, distance = torch.special.log_ndtr(z).unbind(dim=1)
        veto = (distance - math.log(TAIL)).clamp(max=0)
        return in_range_of((p_score + cosine) / 2 + veto, like=logits)

    def _terms(self, features: Tensor, predicted: Tensor, product: Product = lambda x, y: (x * y).sum(dim=1)) -> Tensor:
        """s_1, s_2, s_3 of rows (n, P) in float64, (n, 3); ``product`` of whitened rows is their x^T A y."""
        centred, weight = features - self.centre_, self.weight_.index_select(0, predicted)
        p_score = quotient((weight * centred).sum(dim=1), lengths(centred))
        x = (unit_rows(features) - self.mean_) @ self.factor_
        d = self.directions_.index_select(0, predicted)
        cosine = quotient(product(x, d), product(x, x).sqrt() * product(d, d).sqrt())
        return torch.stack([p_score, cosine, -product(x - d, x - d)], dim=1)

    def explain_choice(self) -> str:
        metric = f"the metric of {self.freedom_} residuals" if self.freedom_ else "the Euclidean metric"
        return f"no hyper-parameter; {metric} within classes, prior spread of the class means {self.spread_:.3g}"


def left_out_product(residuals: Tensor, share: float) -> Product:
    """x^T A y of whitened rows that belong to the validation samples, A without the residual r of its sample.

    Sigma less its share s r r^T has the inverse A + s A r r^T A / (1 - s r^T A r) (Sherman & Morrison 1950).
    ``residuals``: T^T r, (n, P).
    """
    r = residuals
    lift = share / (1 - share * (r * r).sum(dim=1)).clamp(min=FLOAT32_STEP)
    return lambda x, y: (x * y).sum(dim=1) + lift * (x * r).sum(dim=1) * (y * r).sum(dim=1)
