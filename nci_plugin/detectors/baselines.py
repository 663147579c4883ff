"""The three baselines that read the logits alone."""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.checks import check_number
from nci_plugin.detectors.base import Detector, Paper
from nci_plugin.detectors.registry import register_detector


@register_detector
class MSP(Detector):
    """Maximum softmax probability: score = max_k softmax(z)_k, in (0, 1] (Hendrycks & Gimpel 2017)."""

    name = "msp"
    display = "MSP"
    paper = Paper(
        "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
        "Hendrycks & Gimpel",
        "ICLR",
        2017,
        "https://openreview.net/forum?id=Hkg4TI9xl",
    )
    per_row = "K"

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=1).amax(dim=1)


@register_detector
class MLS(Detector):
    """Maximum logit score: score = max_k z_k (Hendrycks et al. 2022)."""

    name = "mls"
    display = "MLS"
    paper = Paper(
        "Scaling Out-of-Distribution Detection for Real-World Settings",
        "Hendrycks et al.",
        "ICML",
        2022,
        "https://proceedings.mlr.press/v162/hendrycks22a.html",
    )
    per_row = "K"

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return logits.amax(dim=1)


@register_detector
class EBO(Detector):
    """Energy: score = T log sum_k exp(z_k / T), T > 0 (Liu et al. 2020, with the sign turned)."""

    name = "ebo"
    display = "Energy"
    paper = Paper(
        "Energy-based Out-of-distribution Detection",
        "Liu et al.",
        "NeurIPS",
        2020,
        "https://proceedings.neurips.cc/paper/2020/hash/f5496252609c43eb8a3d147ab9b9c006-Abstract.html",
    )
    per_row = "K"

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': temperature", self.temperature, above=0)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        return self.temperature * torch.logsumexp(logits / self.temperature, dim=1)
