"""The distances of pytorch-ood's Mahalanobis and RMD, by one product for a row, not one for a row and a class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COMPARED_ROWS = 16
"""Training rows on which `Expanded` must agree with the library."""


class Expanded:
    """Mahalanobis distances (n, K) to the class means, times a factor, with the square multiplied out, in float64.

    (z - mu_k)' A (z - mu_k) = z' A z - z' (A + A') mu_k + mu_k' A mu_k takes one product with A (P, P) for a row,
    where the library takes one for a row and a class: 75 minutes of CPU for 56,000 rows of 2048 features and 1000
    classes. It is nearer to the exact value of the library's formula than the library itself, in float32.
    """

    def __init__(self, factor: float, means: Tensor, precision: Tensor) -> None:
        self.factor, means, self.precision = factor, means.double(), precision.double()
        self.linear = (self.precision + self.precision.T) @ means.T
        self.constant = ((means @ self.precision) * means).sum(dim=1)

    def __call__(self, features: Tensor) -> Tensor:
        rows = features.double()
        square = ((rows @ self.precision) * rows).sum(dim=1, keepdim=True)
        return (self.factor * (square - rows @ self.linear + self.constant)).to(features.dtype)


def expand(detector: Any, features: Tensor) -> None:
    """Let a fitted Mahalanobis or RMD of the library take its distances by `Expanded`, if both agree on the first rows.

    Any other detector is left as it is; ``features`` are training rows (n, P).
    """
    rows = features[:COMPARED_ROWS]
    for class_name, factor in (("RMD", 1.0), ("Mahalanobis", -0.5)):
        if type(detector).__name__ == class_name:
            distances = Expanded(factor, detector.mu, detector.precision)
            if torch.allclose(distances(rows), detector._calc_gaussian_scores(rows), rtol=1e-4, atol=0.0):
                detector._calc_gaussian_scores = distances
