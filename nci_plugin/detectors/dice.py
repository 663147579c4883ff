"""DICE: energy by the weights that contribute most (Sun & Li, ECCV 2022)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nci_plugin.checks import check_number
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead


@register_detector
class DICE(Detector):
    """DICE: score = log sum_k exp(z'_k), z' = (M * W) h + b (Sun & Li 2022).

    The mask M is 1 where the mean contribution W_ki mu_i, mu the mean training feature, is above the percentile ``p``
    (0 to 100) of all of them.
    """

    name = "dice"
    display = "DICE"
    paper = Paper(
        "DICE: Leveraging Sparsification for Out-of-Distribution Detection",
        "Sun & Li",
        "ECCV",
        2022,
        "https://arxiv.org/abs/2111.09805",
    )
    fits_on = FitsOn.STATISTICS
    block_bytes = 2**26
    fit_reads = ("p",)
    per_row = "K P"

    def __init__(self, p: float = 90) -> None:
        self.p = p

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': p", self.p, least=0, most=100)

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        weight = head.weight.double()
        contribution = weight * training.global_mean
        kept = contribution > float(np.percentile(contribution.numpy(), self.p))
        self.weight_, self.bias_ = torch.where(kept, weight, 0.0), head.bias.double()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        h = features.double()
        sparse = h @ self.weight_.T + self.bias_
        return in_range_of(torch.logsumexp(sparse, dim=1), like=logits)
