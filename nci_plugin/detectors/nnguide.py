"""NNGuide: energy guided by the nearest confident training features (Park, Jung & Teoh, ICCV 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_number
from nci_plugin.detectors.base import Detector, Paper, in_range_of
from nci_plugin.detectors.registry import register_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import unit_rows
from nci_plugin.networks.head import LinearHead

QUERY_ROWS, PRODUCT_BYTES = 1024, 2**27
"""Rows that are compared with the bank at once, and the most that their products in float64 take."""


@register_detector
class NNGuide(Detector):
    """NNGuide: score = E(h) mean_{j of the K largest} E(h_j) f_j . f, f = h / ||h||_2 (Park et al. 2023).

    E(h) = log sum_k exp(z_k) is the energy. h_j are the first training features of the list, the share ``alpha`` (0 to
    1) of them and at least ``K``, a whole number from 1 to the number of training samples. OpenOOD takes whole batches
    until ``alpha`` is passed, so that its scores hang on the batch size; with batches of ``K`` they are these.
    """

    name = "nnguide"
    display = "NNGuide"
    paper = Paper(
        "Nearest Neighbor Guidance for Out-of-Distribution Detection",
        "Park et al.",
        "ICCV",
        2023,
        "https://openaccess.thecvf.com/content/ICCV2023/html/"
        "Park_Nearest_Neighbor_Guidance_for_Out-of-Distribution_Detection_ICCV_2023_paper.html",
    )
    fits_on = FitsOn.BANK
    fit_reads = ("K", "alpha")
    per_row = "N P"

    def __init__(self, K: int = 100, alpha: float = 0.01) -> None:
        self.K, self.alpha = K, alpha

    @property
    def memory(self) -> dict[str, float]:
        return {"N P": 16 * self.alpha, "P": 16 * self.K, "": 2 * PRODUCT_BYTES}

    def check_hyperparameters(self) -> None:
        check_number(f"detector '{self.name}': K", self.K, above=0, whole=True)
        check_number(f"detector '{self.name}': alpha", self.alpha, least=0, most=1)

    @property
    def least_training(self) -> int:
        return self.K

    def _fit(self, training: FeatureSplit, head: LinearHead, validation: FeatureSplit | None) -> None:
        if len(training) < self.K:
            raise PluginError(
                f"detector '{self.name}': K must be at most the {len(training)} training samples, got {self.K}"
            )
        missing = max(self.K, math.ceil(len(training) * self.alpha))
        guides: list[Tensor] = []
        for chunk in training.chunks():
            energy = torch.logsumexp(chunk.logits[:missing].double(), dim=1)
            guides.append(unit_rows(chunk.features[:missing]) * energy[:, None])
            missing -= len(guides[-1])
            if not missing:
                break
        self.guides_ = torch.cat(guides)

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        nearest = [(rows @ self.guides_.T).topk(self.K, dim=1).values.mean(dim=1) for rows in self._queries(features)]
        energy = torch.logsumexp(logits.double(), dim=1)
        return in_range_of(energy * torch.cat(nearest), like=logits)

    def _queries(self, features: Tensor) -> tuple[Tensor, ...]:
        rows = min(QUERY_ROWS, max(1, PRODUCT_BYTES // (8 * len(self.guides_))))
        return unit_rows(features).split(rows)
