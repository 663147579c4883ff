"""What class imbalance makes of collapse: a general orthogonal frame, minority classes that merge.

Each equation takes vectors of K classes, ``rows`` (K, P), centred class means, raw ones or rows of the weight; or the
`chords` (K (K - 1) / 2,) between their directions; and the sizes of the classes, ``counts`` (K,).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nci_plugin.collapse.geometry import Undefined, lengths, pair_cosines
from nci_plugin.collapse.registry import metric

IMBALANCE = 2.0
"""Largest over smallest class from which on class sizes count as unequal: below, a slope against them is only noise."""


def simplex_angle(num_classes: int) -> float:
    """The angle between two vertices of a simplex ETF, degrees."""
    return math.degrees(math.acos(-1 / (num_classes - 1)))


ANGLE: dict[str, Any] = {"ideal": simplex_angle, "larger": True, "simplex": True}
RANK: dict[str, Any] = {"ideal": lambda k: k - 1, "simplex": True}


@metric("imbalance, largest / smallest class", of="counts")
def imbalance_ratio(counts: Tensor) -> float:
    """Largest over smallest class, of those that came; 1 where all are of one size."""
    return float(counts.max() / counts.min())


@metric("GOF mean |cos| of weights", of="weight", name="gof_mean_abs_cosine_weights", ideal=0, frame="GOF")
@metric("GOF mean |cos| of uncentred means", of="raw", name="gof_mean_abs_cosine_uncentred", ideal=0, frame="GOF")
def mean_abs_cosine(rows: Tensor) -> float:
    """Mean of |cos_kk'| over pairs, 0 (orthogonal frame) to 1 (Dang et al. 2023: raw means under class imbalance).

    Of weights it is NC2B, where a bias-free head with the squared error ends; NC2A is the simplex of `equiangular`.
    """
    return float(pair_cosines(rows).abs().mean())


@metric("GOF slope of log ||w_k|| on log n_k", of="weight counts", name="gof_slope_weights")
@metric("GOF slope of log ||mu_k|| on log n_k", of="raw counts", name="gof_slope_means")
def log_slope(rows: Tensor, counts: Tensor) -> float:
    """Slope of log ||row_k|| against log n_k, counts (K,) (Dang et al. 2023): 0 where lengths ignore the class size.

    In a general orthogonal frame the lengths follow the class sizes. Raises Undefined below IMBALANCE.
    """
    length = lengths(rows)
    from scipy.stats import linregress  # 0.6 s

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


@metric("minority classes, mean cos of weights", of="weight counts", name="minority_cosine_weights")
@metric("minority classes, mean cos of centred means", of="centred counts", name="minority_cosine_means")
def minority_cosine(rows: Tensor, counts: Tensor) -> float:
    """Mean cosine over pairs of minority classes, -1 to 1; 1 where they have merged (Fang et al. 2021).

    Raises Undefined below IMBALANCE and where fewer than two classes are in the minority.
    """
    _check_imbalanced(counts)
    minority = rows[is_minority(counts)]
    if len(minority) < 2:
        raise Undefined(f"collapse: pairs of minority classes need two of them, got {len(minority)}")
    return float(pair_cosines(minority).mean())


@metric("angle of w_k", of="weight_chords count", name="smallest_angles_weights", per_class=True, **ANGLE)
@metric("angle of mu_k - mu_G", of="centred_chords count", name="smallest_angles_means", per_class=True, **ANGLE)
def smallest_angles(chords: Tensor, count: int) -> Tensor:
    """Angle of each of ``count`` rows to the row nearest in direction, degrees (K,), 0 (merged) to 180.

    At a simplex ETF all are arccos(-1/(K-1)), which the smallest of them never exceeds.
    """
    nearest = chords.new_full((count,), 2.0)
    for side in torch.triu_indices(count, count, offset=1):
        nearest.scatter_reduce_(0, side, chords, "amin")
    return torch.rad2deg(2 * (nearest / 2).clamp(max=1).asin())


@metric("smallest angle of weights, degrees", of="weight_chords count", name="smallest_angle_weights", **ANGLE)
@metric("smallest angle of centred means, degrees", of="centred_chords count", name="smallest_angle_means", **ANGLE)
def smallest_angle(chords: Tensor, count: int) -> float:
    """The smallest of the `smallest_angles`, degrees; at most arccos(-1/(K-1)), that of a simplex ETF."""
    return float(smallest_angles(chords, count).min())


@metric("effective rank of weights", of="weight", name="effective_rank_weights", **RANK)
@metric("effective rank of centred means", of="centred", name="effective_rank_means", **RANK)
def effective_rank(rows: Tensor) -> float:
    """exp(entropy of the eigenvalues of rows rows^T, divided by their sum), 1 to K (after Roy & Vetterli 2007).

    K - 1 for a simplex ETF, K for an orthogonal frame of equal lengths; less where classes merge.
    """
    eigenvalues = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0)
    if not eigenvalues.any():
        raise Undefined("collapse: vectors that are all zero have no rank")
    return float(torch.special.entr(eigenvalues / eigenvalues.sum()).sum().exp())


def _check_imbalanced(counts: Tensor) -> None:
    ratio = imbalance_ratio(counts)
    if ratio < IMBALANCE:
        raise Undefined(f"collapse: largest / smallest class is {ratio:.3g}; this is defined from {IMBALANCE:g} on")
