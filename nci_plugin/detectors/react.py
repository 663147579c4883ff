"""ReAct: energy of rectified features (Sun, Guo & Li, NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nci_plugin.checks import check_number
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead


@register_detector
class ReAct(Detector):
    """ReAct: score = log sum_k exp(z'_k), z' = W min(h, t) + b (Sun et al. 2021, with energy).

    t is the ``percentile`` (0 to 100) of all numbers in the ID validation features, as in OpenOOD.
    """

    name = "react"
    display = "ReAct"
    paper = Paper(
        "ReAct: Out-of-distribution Detection With Rectified Activations",
        "Sun et al.",
        "NeurIPS",
        2021,
        "https://proceedings.neurips.cc/paper/2021/hash/01894d6f048493d2cacde3c579c315a3-Abstract.html",
    )
    fit_reads = ("percentile",)
    memory: Mapping[str, float] = {"V P": 12}
    per_row = "K P"

    def __init__(self, percentile: float = 90) -> None:
        self.percentile = percentile

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': percentile", self.percentile, least=0, most=100)

    @property
    def needs_validation(self) -> bool:
        return True

    def _fit(self, training: None, head: LinearHead, validation: FeatureSplit | None) -> None:
        assert validation is not None  # as it needs one
        self.threshold_ = float(np.percentile(validation.features.numpy(), self.percentile))
        self.weight_, self.bias_ = head.weight.double(), head.bias.double()

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        clipped = features.double().clamp(max=self.threshold_)
        return in_range_of(torch.logsumexp(clipped @ self.weight_.T + self.bias_, dim=1), like=logits)
