"""fDBD: mean distance to the decision boundaries (Liu & Qin, ICML 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import check_choice
from nci_plugin.collapse.geometry import centre_distances, lengths
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

EQUAL = 1e-6
"""Rows of W whose distance is below this times the largest are equal: weights are float32."""


@register_detector
class FDBD(Detector):
    """fDBD: score = sum_{k != c} (z_c - z_k) / ||w_c - w_k||_2 / r, c = argmax z (Liu & Qin 2024, eq. 6).

    r = ||h - mu_G||_2, mu_G the mean of all training samples, or ||h||_2 with ``distance_as_normalizer: False``, as
    OpenOOD tries too. The paper's factor 1/(K - 1) is left out, as in OpenOOD. Classes with w_k = w_c have no boundary
    and are left out; where r is 0 the score is 0.
    """

    name = "fdbd"
    display = "fDBD"
    paper = Paper(
        "Fast Decision Boundary based Out-of-Distribution Detector",
        "Liu & Qin",
        "ICML",
        2024,
        "https://arxiv.org/abs/2312.11536",
    )
    fits_on = FitsOn.STATISTICS
    block_bytes = 2**26
    per_row = "K"

    def __init__(self, distance_as_normalizer: bool = True) -> None:
        self.distance_as_normalizer = distance_as_normalizer

    def check_hyperparameters(self) -> None:
        where = f"detector '{self.name}': distance_as_normalizer"
        check_choice(where, self.distance_as_normalizer, (True, False))

    def _fit(self, training: ClassStatistics, head: LinearHead, validation: FeatureSplit | None) -> None:
        self.mean_ = training.global_mean
        gaps = centre_distances(head.weight.double(), head.weight.double())
        self.gaps_ = torch.where(gaps > EQUAL * gaps.max(), gaps, torch.inf)  # ||w_c - w_k||, (K, K)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        z, h = logits.double(), features.double()
        largest, predicted = z.max(dim=1)
        distances = ((largest[:, None] - z) / self.gaps_.index_select(0, predicted)).sum(dim=1)
        length = lengths(h - self.mean_ if self.distance_as_normalizer else h)
        return in_range_of(torch.where(length > 0, distances / length, 0.0), like=logits)
