"""KL matching: divergence from the mean prediction of a class (Hendrycks et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nci_plugin.detectors.base import FLOAT32_STEP, Detector, in_range_of
from nci_plugin.detectors.baselines import MLS
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead


@register_detector
class KLM(Detector):
    """KL matching: score = -min_k KL(p || q_k), p = softmax(z), at most 0 (Hendrycks et al. 2022).

    q_k is the mean softmax of the ID validation samples that are predicted as class k. Classes that no sample of that
    split is predicted as are left out: OpenOOD puts a one-hot q_k in their place, which is infinitely far from any p
    but a one-hot one.
    """

    name = "klm"
    display = "KLM"
    paper = MLS.paper
    magnitude = 1.0
    block_bytes = 2**26
    memory: Mapping[str, float] = {"V K": 24, "K K": 16}
    per_row = "K K"

    @property
    def needs_validation(self) -> bool:
        return True

    def _fit(self, training: None, head: LinearHead, validation: FeatureSplit | None) -> None:
        assert validation is not None  # as it needs one
        log_p = torch.log_softmax(validation.logits.double(), dim=1)
        predicted = log_p.argmax(dim=1)
        groups = [log_p[predicted == k] for k in predicted.unique()]
        self.log_means_ = torch.stack([rows.logsumexp(dim=0) - torch.tensor(len(rows)).log() for rows in groups])

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits.double(), dim=1)
        p = log_p.exp()
        divergences = (p * log_p).sum(dim=1, keepdim=True) - p @ self.log_means_.T
        nearest = divergences.amin(dim=1)
        return in_range_of(-torch.where(nearest > FLOAT32_STEP, nearest, 0.0), like=logits)  # below it is rounding of z
