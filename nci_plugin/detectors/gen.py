"""GEN: generalised entropy of the largest softmax probabilities (Liu, Lochman & Zach, CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import check_number
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.detectors.registry import register_detector


@register_detector
class GEN(Detector):
    """GEN: score = -sum_{k of the M largest} p_k^gamma (1 - p_k)^gamma, p = softmax(z) (Liu et al. 2023, eq. 4).

    ``gamma`` > 0 and ``M``, a whole number from 1; where there are fewer classes all of them count. Computed in
    float64, where 1 - p_k of a confident sample is not 0, as it is in float32 from p_k = 1 - 6e-8.
    """

    name = "gen"
    display = "GEN"
    paper = Paper(
        "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
        "Liu et al.",
        "CVPR",
        2023,
        "https://openaccess.thecvf.com/content/CVPR2023/html/"
        "Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_paper.html",
    )
    per_row = "K"

    def __init__(self, gamma: float = 0.1, M: int = 100) -> None:
        self.gamma, self.M = gamma, M

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': gamma", self.gamma, above=0)
        check_number(f"detector '{self.name}': M", self.M, above=0, whole=True)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits.double(), dim=1)
        largest = log_p.topk(min(self.M, log_p.shape[1]), dim=1).values
        # 1 - p_k is the sum of the others; -expm1(log p_k) keeps its digits while p_k is near 1.
        rest = -torch.expm1(largest)
        return -(largest.exp() * rest).pow(self.gamma).sum(dim=1).to(logits)
