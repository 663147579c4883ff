"""NC3, self-duality: do the weights of the last layer point where the class means do.

``weight`` and ``rows``: row k belongs to class k, (K, P). Centred class means make it NC3; with raw means the cosine is
another quantity, and is called uncentred wherever it is shown.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import Undefined, directions
from nci_plugin.collapse.means import frame_error


def self_duality(weight: Tensor, rows: Tensor) -> float:
    """|| W/||W||_F - M/||M||_F ||_F^2, 0 (W is M but for its scale) to 4 (opposite) (Papyan et al. 2020)."""
    return float((_unit_norm(weight) - _unit_norm(rows)).square().sum())


def duality_error(weight: Tensor, rows: Tensor) -> float:
    """||G / ||G||_F - (I - 11^T/K) / sqrt(K-1)||_F with G = W M^T (Kothapalli 2023); 0 (dual and ETF) to 2."""
    return frame_error(weight @ rows.T)


def class_cosines(weight: Tensor, rows: Tensor) -> Tensor:
    """cos(w_k, row_k) of each class, (K,); 1 at exact collapse (Wu & Papyan 2024, whose UNC3 is its variance)."""
    return (directions(weight) * directions(rows)).sum(dim=1)


def cosine_std(weight: Tensor, rows: Tensor) -> float:
    """Standard deviation of `class_cosines` over classes, with K - 1; 0 at collapse (its square: UNC3)."""
    if len(rows) < 2:
        raise Undefined(f"collapse: a spread over classes needs two, got {len(rows)}")
    return float(class_cosines(weight, rows).std())


def _unit_norm(matrix: Tensor) -> Tensor:
    norm = torch.linalg.matrix_norm(matrix)
    if norm == 0:
        raise Undefined("collapse: duality needs weights and centred class means that are not all zero")
    return matrix / norm
