"""NC2, how the class means or the weights stand to each other: simplex, hypersphere.

Each equation takes vectors of K classes, ``rows`` (K, P): centred class means or rows of the weight; or the `chords`
(K (K - 1) / 2,) between their directions. Rotating all rows together changes none, scaling them only lengths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import RCOND, ROUNDING, Undefined, lengths, pair_cosines, pair_distances
from nci_plugin.collapse.registry import EPOCHS, STAGES, metric

SHOWN: dict[str, Any] = {"ideal": 0, "along": (EPOCHS, STAGES)}
GNC2: dict[str, Any] = {"of": "centred_chords", "simplex": True}


@metric("||mu_k||", of="raw", name="class_mean_norms", per_class=True)
@metric("||w_k||", of="weight", name="nc2_weight_norms", per_class=True)
@metric("||mu_k - mu_G||", of="centred", name="nc2_centred_norms", per_class=True)
def row_lengths(rows: Tensor) -> Tensor:
    """Euclidean length of each row, (K,); of weights and centred means equal at collapse (Papyan et al. 2020)."""
    return lengths(rows)


@metric("NC2 equinorm, weights", of="weight", name="nc2_equinorm_weights", ideal=0)
@metric("NC2 equinorm, centred means", "equinorm", of="centred", name="nc2_equinorm_means", **SHOWN)
def equinorm(rows: Tensor) -> float:
    """std / mean of the lengths, std with K - 1; from 0 (equal lengths) up (Papyan et al. 2020)."""
    length = lengths(rows)
    if len(rows) < 2 or not length.any():
        raise Undefined(f"collapse: the spread of lengths needs two classes and a length above 0, got {len(rows)} rows")
    return float(length.std() / length.mean())


@metric("NC2 equiangular, weights", of="weight", name="nc2_equiangular_weights", ideal=0, simplex=True)
@metric("NC2 equiangular, centred means", "equiang.", of="centred", name="nc2_equiangular_means", simplex=True, **SHOWN)
def equiangular(rows: Tensor) -> float:
    """Mean of |cos_kk' + 1/(K-1)| over pairs, 0 (simplex equiangular tight frame) to K/(K-1) (Papyan et al. 2020).

    Absolute values, since the signed mean of centred rows is near 0 whatever they are.
    """
    return float((pair_cosines(rows) + 1 / (len(rows) - 1)).abs().mean())


@metric("NC2 mean cosine, centred means", of="centred", name="nc2_mean_cosine", ideal=lambda k: -1 / (k - 1))
def mean_cosine(rows: Tensor) -> float:
    """Mean of cos_kk' over pairs, signed, -1/(K-1) to 1 (Papyan et al. 2020).

    Of rows of equal length about their own mean it is -1/(K-1) whatever their angles, so alone it says little:
    `equiangular` does not cancel.
    """
    return float(pair_cosines(rows).mean())


@metric("NC2 mean distance of class means", of="raw")
def mean_class_distance(rows: Tensor) -> float:
    """Mean of ||mu_k - mu_k'|| over pairs, in the unit of the features; the scale against which variances are read."""
    return float(pair_distances(rows).mean())


@metric("NC2 ETF error, centred means", "ETF error", of="centred", name="nc2_etf_error", simplex=True, **SHOWN)
def etf_error(rows: Tensor) -> float:
    """||G / ||G||_F - E||_F with G = rows rows^T, E = (I - 11^T/K) / sqrt(K-1) (Zhu et al. 2021); 0 (ETF) to 2."""
    return frame_error(rows @ rows.T)


def frame_error(products: Tensor) -> float:
    """||G / ||G||_F - (I - 11^T/K) / sqrt(K-1)||_F of products (K, K) of all classes with all classes; 0 to 2."""
    count, norm = len(products), torch.linalg.matrix_norm(products)
    if count < 2 or norm == 0:
        raise Undefined(f"collapse: a frame needs two classes and vectors that are not all zero, got {count} rows")
    frame = torch.eye(count, dtype=products.dtype) - 1 / count
    return float(torch.linalg.matrix_norm(products / norm - frame / math.sqrt(count - 1)))


def nearest_etf(rows: Tensor) -> Tensor:
    """Unit vertices (K, P) of the simplex ETF that lies nearest to the centred rows, turned and scaled as they are.

    With rows U S V^T, it is sqrt(K / (K-1)) U V^T (orthogonal Procrustes problem, Schoenemann 1966). Raises Undefined
    where there is none, for K > P + 1, and where the rows span fewer than K - 1 dimensions, so that it is not unique.
    """
    count, width = rows.shape
    if not 2 <= count <= width + 1:
        raise Undefined(f"collapse: {count} classes in {width} features: a simplex ETF needs 2 <= K <= P + 1")
    left, values, right = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    if values[count - 2].square() <= RCOND * values[0].square():
        raise Undefined(
            f"collapse: the class means span fewer than K - 1 = {count - 1} dimensions, so no ETF is nearest"
        )
    return math.sqrt(count / (count - 1)) * left[:, : count - 1] @ right[: count - 1]


def simplex_log_distance(num_classes: int) -> float:
    """`log_inverse_distances` of every pair of a simplex ETF: -0.5 log(2K / (K-1))."""
    return -0.5 * math.log(2 * num_classes / (num_classes - 1))


def log_inverse_distances(chords: Tensor) -> Tensor:
    """log(1 / ||u_k - u_k'||) of all pairs, u = row / its length, (K (K - 1) / 2,), each at least -log 2.

    Generalised NC2, hyperspherical uniformity (Liu et al. 2023), which also holds for K > P + 1 where no simplex ETF
    exists: the mean is smallest and the variance 0 at a simplex ETF, where every pair gives -0.5 log(2K / (K-1)).
    Raises Undefined where two directions are equal.
    """
    equal = int((chords <= ROUNDING).sum())
    if equal:
        raise Undefined(f"collapse: {equal} of {len(chords)} pairs of classes have the same direction")
    return -chords.log()


@metric("GNC2 mean log inverse distance", name="gnc2_log_mean", ideal=simplex_log_distance, **GNC2)
def log_mean(chords: Tensor) -> float:
    """Mean of `log_inverse_distances`; a simplex ETF gives -0.5 log(2K / (K-1)), the least (Liu et al. 2023)."""
    return float(log_inverse_distances(chords).mean())


@metric("GNC2 its variance", name="gnc2_log_variance", ideal=0, **GNC2)
def log_variance(chords: Tensor) -> float:
    """Variance of `log_inverse_distances` over pairs, by their number less one; 0 at an ETF (Liu et al. 2023)."""
    values = log_inverse_distances(chords)
    if len(values) < 2:
        raise Undefined("collapse: the variance over pairs needs two pairs, two classes have one")
    return float(values.var())
