"""NC2, how the class means or the weights stand to each other: simplex, hypersphere, orthogonal frame, or merged.

Each equation takes vectors of K classes, ``rows`` (K, P): centred class means, raw class means or rows of the weight;
or what many equations need of them, the `chords` (K (K - 1) / 2,) between their directions.
None changes when all rows are scaled or rotated together, but for a slope's intercept, which is not returned.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import linregress
from torch import Tensor

from nci_plugin.collapse.geometry import RCOND, ROUNDING, Undefined, lengths, pair_cosines

IMBALANCE = 2.0
"""Largest over smallest class from which on class sizes count as unequal: below, a slope against them is only noise."""


def equinorm(rows: Tensor) -> float:
    """std / mean of the lengths, std with K - 1; from 0 (equal lengths) up (Papyan et al. 2020)."""
    length = lengths(rows)
    if len(rows) < 2 or not length.any():
        raise Undefined(f"collapse: the spread of lengths needs two classes and a length above 0, got {len(rows)} rows")
    return float(length.std() / length.mean())


def equiangular(rows: Tensor) -> float:
    """Mean of |cos_kk' + 1/(K-1)| over pairs, 0 (simplex equiangular tight frame) to K/(K-1) (Papyan et al. 2020).

    Absolute values, since the signed mean of centred rows is near 0 whatever they are.
    """
    return float((pair_cosines(rows) + 1 / (len(rows) - 1)).abs().mean())


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


def log_mean(chords: Tensor) -> float:
    """Mean of `log_inverse_distances`; a simplex ETF gives -0.5 log(2K / (K-1)), the least (Liu et al. 2023)."""
    return float(log_inverse_distances(chords).mean())


def log_variance(chords: Tensor) -> float:
    """Variance of `log_inverse_distances` over pairs, by their number less one; 0 at an ETF (Liu et al. 2023)."""
    values = log_inverse_distances(chords)
    if len(values) < 2:
        raise Undefined("collapse: the variance over pairs needs two pairs, two classes have one")
    return float(values.var())


def mean_abs_cosine(rows: Tensor) -> float:
    """Mean of |cos_kk'| over pairs, 0 (orthogonal frame) to 1 (Dang et al. 2023: raw means under class imbalance)."""
    return float(pair_cosines(rows).abs().mean())


# -------------------------------------------------------------------- class imbalance


def log_slope(rows: Tensor, counts: Tensor) -> float:
    """Slope of log ||row_k|| against log n_k, counts (K,) (Dang et al. 2023): 0 where lengths ignore the class size.

    In a general orthogonal frame the lengths follow the class sizes. Raises Undefined below IMBALANCE.
    """
    length = lengths(rows)
    _check_imbalanced(counts)
    if not length.all():
        raise Undefined(f"collapse: {int((length == 0).sum())} of {len(rows)} vectors have length 0, so no logarithm")
    return float(linregress(counts.log().numpy(), length.log().numpy()).slope)


def is_minority(counts: Tensor) -> Tensor:
    """Which classes are smaller than sqrt(largest * smallest class), (K,) bool: half-way on a logarithmic scale.

    For two sizes of classes (Fang et al. 2021) that parts them. Below IMBALANCE no class is in the minority.
    """
    unequal = counts.max() >= IMBALANCE * counts.min()
    return (counts < (counts.max() * counts.min()).sqrt()) & unequal


def minority_cosine(rows: Tensor, counts: Tensor) -> float:
    """Mean cosine over pairs of minority classes, -1 to 1; 1 where they have merged (Fang et al. 2021).

    Raises Undefined below IMBALANCE and where fewer than two classes are in the minority.
    """
    _check_imbalanced(counts)
    minority = rows[is_minority(counts)]
    if len(minority) < 2:
        raise Undefined(f"collapse: pairs of minority classes need two of them, got {len(minority)}")
    return float(pair_cosines(minority).mean())


def smallest_angles(chords: Tensor, count: int) -> Tensor:
    """Angle of each of ``count`` rows to the row nearest in direction, degrees (K,), 0 (merged) to 180.

    At a simplex ETF all are arccos(-1/(K-1)), which the smallest of them never exceeds.
    """
    nearest = chords.new_full((count,), 2.0)
    for side in torch.triu_indices(count, count, offset=1):
        nearest.scatter_reduce_(0, side, chords, "amin")
    return torch.rad2deg(2 * (nearest / 2).clamp(max=1).asin())


def effective_rank(rows: Tensor) -> float:
    """exp(entropy of the eigenvalues of rows rows^T, divided by their sum), 1 to K (after Roy & Vetterli 2007).

    K - 1 for a simplex ETF, K for an orthogonal frame of equal lengths; less where classes merge.
    """
    eigenvalues = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0)
    if not eigenvalues.any():
        raise Undefined("collapse: vectors that are all zero have no rank")
    return float(torch.special.entr(eigenvalues / eigenvalues.sum()).sum().exp())


def _check_imbalanced(counts: Tensor) -> None:
    ratio = float(counts.max() / counts.min())
    if ratio < IMBALANCE:
        raise Undefined(f"collapse: largest / smallest class is {ratio:.3g}; this is defined from {IMBALANCE:g} on")
