"""pScore about a centre that the head alone gives (Liu et al., ICML 2026)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import lengths
from nci_plugin.detectors.base import FLOAT32_STEP, Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import quotient
from nci_plugin.networks.head import LinearHead


@register_detector
class PScoreDataFree(Detector):
    """Score = w_c . (h - z) / ||h - z||_2, c = argmax z(h), z = -(W^T Q W)^+ W^T Q b, Q = I - 11^T/K.

    z (P,) is the shortest feature whose logits differ least from one another: pScore with it in place of mu_G needs no
    data at all. By it Liu et al. 2026 detect hallucinations of
    language models with NCI. At h = z the score is 0.
    """

    name = "pscore_data_free"
    display = "pScore, data-free"
    paper = Paper(
        "From Out-of-Distribution Detection to Hallucination Detection: A Geometric View",
        "Liu et al.",
        "ICML",
        2026,
        "https://arxiv.org/abs/2602.07253",
    )

    def _fit(self, training: None, head: LinearHead, validation: FeatureSplit | None) -> None:
        weight, bias = head.weight.double(), head.bias.double()
        self.weight_ = weight
        # Q W and Q b are W and b less their means over the classes, and Q Q = Q.
        rounding = max(weight.shape) * FLOAT32_STEP  # weights are float32
        self.centre_ = -torch.linalg.pinv(weight - weight.mean(dim=0), rtol=rounding) @ (bias - bias.mean())

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        centred = features.double() - self.centre_
        weight = self.weight_.index_select(0, logits.argmax(dim=1))
        return in_range_of(quotient((weight * centred).sum(dim=1), lengths(centred)), like=logits)
