"""NC3, self-duality: do the weights of the last layer point where the class means do.

``weight`` and ``rows``: row k belongs to class k, (K, P). Centred class means make it NC3; with raw means the cosine is
another quantity, and is called uncentred wherever it is shown.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import Undefined, directions
from nci_plugin.collapse.means import frame_error
from nci_plugin.collapse.registry import EPOCHS, metric


@metric("NC3 self-duality", "NC3", of="weight centred", name="nc3_self_duality", ideal=0, along=(EPOCHS,))
def self_duality(weight: Tensor, rows: Tensor) -> float:
    """|| W/||W||_F - M/||M||_F ||_F^2, 0 (W is M but for its scale) to 4 (opposite) (Papyan et al. 2020)."""
    return float((_unit_norm(weight) - _unit_norm(rows)).square().sum())


@metric("NC3 duality error", of="weight centred", name="nc3_duality_error", ideal=0, simplex=True)
def duality_error(weight: Tensor, rows: Tensor) -> float:
    """||G / ||G||_F - (I - 11^T/K) / sqrt(K-1)||_F with G = W M^T (Kothapalli 2023); 0 (dual and ETF) to 2."""
    return frame_error(weight @ rows.T)


@metric("cos(w_k, mu_k), not NC3", of="weight raw", name="uncentred_cosines", per_class=True)
@metric("cos(w_k, mu_k - mu_G)", of="weight centred", name="nc3_cosines", per_class=True, ideal=1, larger=True)
def class_cosines(weight: Tensor, rows: Tensor) -> Tensor:
    """cos(w_k, row_k) of each class, (K,); 1 at exact collapse (Wu & Papyan 2024, whose UNC3 is its variance)."""
    return (directions(weight) * directions(rows)).sum(dim=1)


@metric("NC3 mean cos(w_k, mu_k - mu_G), centred", of="weight centred", name="nc3_cosine_mean", ideal=1, larger=True)
def cosine_mean(weight: Tensor, rows: Tensor) -> float:
    """Mean of `class_cosines` over classes, -1 to 1 (collapse)."""
    return float(class_cosines(weight, rows).mean())


@metric("NC3 its std over classes", of="weight centred", name="nc3_cosine_std", ideal=0)
def cosine_std(weight: Tensor, rows: Tensor) -> float:
    """Standard deviation of `class_cosines` over classes, with K - 1; 0 at collapse (its square: UNC3)."""
    if len(rows) < 2:
        raise Undefined(f"collapse: a spread over classes needs two, got {len(rows)}")
    return float(class_cosines(weight, rows).std())


@metric("    mean cos(w_k, mu_k), uncentred, not NC3", of="weight raw")
def uncentred_cosine_mean(weight: Tensor, rows: Tensor) -> float:
    """Mean of cos(w_k, mu_k) over classes, -1 to 1: not NC3, whose class means are centred."""
    return cosine_mean(weight, rows)


def _unit_norm(matrix: Tensor) -> Tensor:
    norm = torch.linalg.matrix_norm(matrix)
    if norm == 0:
        raise Undefined("collapse: duality needs weights and centred class means that are not all zero")
    return matrix / norm
