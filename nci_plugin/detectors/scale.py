"""SCALE: energy of features scaled by how much of their sum lies in the largest (Xu et al., ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import check_number
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead


@register_detector
class SCALE(Detector):
    """SCALE: score = log sum_k exp(z'_k), z' = exp(r) W h + b (Xu et al. 2024).

    r is the sum of h over that of its largest numbers, P - round(P percentile / 100) of P, ``percentile`` 0 to 100. The
    paper speaks of features that are not negative; of signed ones r is what the formula gives. At h = 0, where r has no
    value, z' is b whatever it is.
    """

    name = "scale"
    display = "SCALE"
    paper = Paper(
        "Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement",
        "Xu et al.",
        "ICLR",
        2024,
        "https://openreview.net/forum?id=RDSTjtnqCg",
    )
    per_row = "K P"

    def __init__(self, percentile: float = 85) -> None:
        self.percentile = percentile

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': percentile", self.percentile, least=0, most=100)

    def _fit(self, training: None, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.weight_, self.bias_ = head.weight.double(), head.bias.double()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        h = features.double()
        kept = max(1, h.shape[1] - round(h.shape[1] * self.percentile / 100))
        largest = h.topk(kept, dim=1).values.sum(dim=1)
        r = torch.where(h.any(dim=1), h.sum(dim=1) / largest, 0.0)
        scaled = (h * r.exp()[:, None]) @ self.weight_.T + self.bias_
        return in_range_of(torch.logsumexp(scaled, dim=1), like=logits)
