"""RAS: energy of a feature whose sorted numbers are those of the mean training feature (Guglielmo & Masana 2026)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead

EQUAL = 4e-7
"""Numbers are equal if they differ by up to three roundings of float32."""


@register_detector
class RAS(Detector):
    """RAS: score = log sum_k exp(z'_k), z' = W h' + b, h'_i = m_r(i) (Guglielmo & Masana 2026).

    r(i) is the rank of h_i among the P numbers of h, and m_r the mean over the training samples of the number of rank
    r: read off the authors' public postprocessor. Numbers that are equal but for rounding, as the zeros of a ReLU are,
    share the mean of their m_r: the authors' code leaves it to the sort which of them comes first.
    """

    name = "ras"
    display = "RAS"
    paper = Paper(
        "Ranked Activation Shift for Post-Hoc Out-of-Distribution Detection",
        "Guglielmo & Masana",
        "ECCV",
        2026,
        "https://arxiv.org/abs/2604.08572",
    )
    fits_on = FitsOn.BANK
    per_row = "P P"

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        sums = [chunk.features.double().sort(dim=1).values.sum(dim=0) for chunk in training.chunks()]
        self.profile_ = torch.stack(sums).sum(dim=0) / len(training)
        self.weight_, self.bias_ = head.weight.double(), head.bias.double()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        rows, order = features.double().sort(dim=1)
        steps = rows.diff(dim=1) > EQUAL * rows[:, 1:].abs()
        groups = torch.nn.functional.pad(steps.long().cumsum(dim=1), (1, 0))  # of equal numbers, 0 to P - 1
        profile, zeros = self.profile_.expand(rows.shape), torch.zeros_like(rows)
        means = zeros.scatter_add(1, groups, profile) / zeros.scatter_add(1, groups, torch.ones_like(rows)).clamp(min=1)
        shifted = zeros.scatter(1, order, means.gather(1, groups))
        return in_range_of(torch.logsumexp(shifted @ self.weight_.T + self.bias_, dim=1), like=logits)
