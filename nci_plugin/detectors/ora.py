"""ORA (Demirel et al., NeurIPS 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import PluginError
from nci_plugin.collapse.geometry import centre_distances, lengths
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

EQUAL = 1e-6
"""Rows of W whose distance is below this times the largest are equal: weights are float32."""


@register_detector
class ORA(Detector):
    """ORA: score = max_{k != c} angle(h - mu, h_k - mu), in radians, 0 to pi (Demirel et al. 2025).

    c is the predicted class, h_k the projection of h on the decision boundary between c and class k, and mu the mean of
    all training samples. The authors' code divides by pi, and its mu is the mean of the class means of ID test images.

    Seen from mu along the boundary's normal w_c - w_k, h lies at a = (w_c - w_k) . (h - mu) / ||w_c - w_k|| and h_k at
    e = a - (z_c - z_k) / ||w_c - w_k||; along the boundary both lie at r, r^2 = ||h - mu||^2 - a^2. So logits and one
    norm give the angle: its tangent is r (a - e) / (r^2 + a e). It is 0 where h or h_k is mu, and where
    w_c = w_k leaves no boundary. The logits are W h + b in float64: the rounding of the network's own hides what lies
    along a boundary where classes have collapsed, and in bfloat16 everywhere. Needs two classes.
    """

    name = "ora"
    display = "ORA"
    paper = Paper(
        "Out-of-Distribution Detection with Relative Angles",
        "Demirel et al.",
        "NeurIPS",
        2025,
        "https://arxiv.org/abs/2410.04525",
    )
    fits_on = FitsOn.STATISTICS
    block_bytes = 2**22
    per_row = "K P"

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        if head.num_classes < 2:
            raise PluginError(f"detector '{self.name}': needs a decision boundary, the head has one class")
        self.mean_, self.weight_ = training.global_mean, head.weight.detach().double()
        self.mean_logits_ = head.bias.detach().double() + self.weight_ @ self.mean_
        gaps = centre_distances(self.weight_, self.weight_)
        self.gaps_ = torch.where(gaps > EQUAL * gaps.max(), gaps, 0.0)  # ||w_c - w_k||, (K, K)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        centred, own = features.double() - self.mean_, logits.argmax(dim=1)
        exact, gaps, of_mean = centred @ self.weight_.T + self.mean_logits_, self.gaps_[own], self.mean_logits_
        to_boundary = (exact.gather(1, own[:, None]) - exact) / gaps
        boundary = (of_mean - of_mean[own, None]) / gaps  # e: where the boundary lies, seen from the mean
        across = to_boundary + boundary  # a: where the feature lies
        along = (lengths(centred)[:, None].square() - across.square()).clamp(min=0)  # r^2
        angles = torch.atan2(along.sqrt() * to_boundary.abs(), along + across * boundary)
        return torch.where(gaps > 0, angles, 0.0).amax(dim=1).to(logits)
