"""Neural regression collapse, NRC1 to NRC3, of a network with n targets: functions of features, targets and head alone.

Features are (N, P), targets (N, n), the weight (n, P); n is smaller than P. All is in float64.
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.collapse.geometry import RCOND, Undefined, lengths
from nci_plugin.collapse.registry import BEYOND, metric
from nci_plugin.rows import as_numbers


@metric("NRC1", of="features num_targets", ideal=0, into=BEYOND)
def nrc1(features: Tensor, num_targets: int) -> float:
    """NRC1: mean share of ||h - mean||^2 outside the first n principal components, 0 (collapse) to 1.

    (1/N) sum_i ||u_i - proj(u_i | PCA_n)||^2 with u = (h - mean) / ||h - mean|| (Andriopoulos et al. 2024).
    Raises PluginError unless 1 <= n < P, Undefined where features are all equal.
    """
    features = as_numbers("NRC: features", features)
    unit = _directions(features)
    if not 1 <= num_targets < features.shape[1]:
        raise PluginError(
            f"NRC1: needs 1 to P - 1 targets, got {num_targets} with P = {features.shape[1]} features: as many"
            " principal components as features hold everything"
        )
    centred = _centred("NRC", features)
    return _outside(unit, torch.linalg.svd(centred, full_matrices=False)[2][:num_targets])


@metric("NRC2", of="features weight", ideal=0, into=BEYOND)
def nrc2(features: Tensor, weight: Tensor) -> float:
    """NRC2: mean share of ||h - mean||^2 outside the span of the rows of W, 0 (collapse) to 1.

    (1/N) sum_i ||u_i - proj(u_i | rows of W)||^2 with u as in `nrc1` (Andriopoulos et al. 2024). Raises PluginError on
    another width, Undefined where features are all equal or W is zero.
    """
    features, weight = as_numbers("NRC: features", features), as_numbers("NRC2: weight", weight)
    unit = _directions(features)
    check_width("NRC2: weight", weight, features.shape[1])
    check_finite("NRC2: weight", weight)
    _, values, rows = torch.linalg.svd(weight.double(), full_matrices=False)
    kept = values.square() > RCOND * values[0].square()
    if not kept.any():
        raise Undefined("NRC2: the weight is zero, so its rows span nothing")
    return _outside(unit, rows[kept])


@metric("NRC3", of="targets weight", ideal=0, into=BEYOND)
def nrc3(targets: Tensor, weight: Tensor, gamma: float | None = None) -> float:
    """NRC3: ||A / ||A||_F - B / ||B||_F||_F^2 with A = W W^T, B = Sigma^(1/2) - gamma^(1/2) I; 0 (collapse) to 4.

    Sigma (n, n) is the covariance of the targets, divided by N; at the minimum of unconstrained features gamma is
    lambda_h lambda_w, below its smallest eigenvalue, and W W^T = sqrt(lambda_h / lambda_w) B (Andriopoulos et al.
    2024). Without ``gamma`` the least value over 0 <= gamma < that eigenvalue.

    Raises PluginError for one target, whose Gram matrix is a number that normalising makes 1, and where gamma is out of
    that range; Undefined where targets are linearly dependent or W is zero.
    """
    targets, weight = as_numbers("NRC3: targets", targets), as_numbers("NRC3: weight", weight).double()
    check_finite("NRC3: weight", weight)
    centred = _centred("NRC3: targets", targets)
    if targets.shape[1] < 2 or weight.ndim != 2 or len(weight) != targets.shape[1]:
        raise PluginError(
            f"NRC3: needs two targets and a row of the weight for each, got {targets.shape[1]} targets and a weight of"
            f" shape {tuple(weight.shape)}; of one target the Gram matrix is a number, which normalised is always 1"
        )
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    if variances[0] <= RCOND * variances[-1]:
        raise Undefined("NRC3: targets are linearly dependent, so Sigma^(1/2) - gamma^(1/2) I has no range of gamma")
    gram = weight @ weight.T
    if not gram.any():
        raise Undefined("NRC3: the weight is zero")
    limit = float(variances[0].sqrt())

    def distance(root: float) -> float:
        expected = vectors * (variances.sqrt() - root) @ vectors.T
        return float((_unit(gram) - _unit(expected)).square().sum())

    if gamma is None:
        ends = (distance(0.0), distance(limit * (1 - 1e-9)))
        return min(*ends, float(minimize_scalar(distance, bounds=(0, limit), method="bounded").fun))
    if not 0 <= gamma < limit**2:
        raise PluginError(f"NRC3: gamma must be from 0 to below {limit**2:.4g}, the least variance, got {gamma!r}")
    return distance(gamma**0.5)


def _centred(what: str, rows: Tensor) -> Tensor:
    if rows.ndim != 2 or len(rows) < 2:
        raise PluginError(f"{what}: needs two rows of a matrix, got shape {tuple(rows.shape)}")
    check_finite(what, rows)
    values = rows.double()
    return values - values.mean(dim=0)


def _directions(features: Tensor) -> Tensor:
    """Unit vectors of the centred features; those at the mean have none and are left out."""
    centred = _centred("NRC: features", features)
    length = lengths(centred)
    kept = length > 1e-12 * lengths(features.double()).max()
    if not kept.any():
        raise Undefined("NRC: features are all equal, so nothing has a direction")
    return centred[kept] / length[kept, None]


def _outside(unit: Tensor, basis: Tensor) -> float:
    """Mean squared length of unit rows (N, P) outside the span of orthonormal rows (r, P)."""
    return float((unit - (unit @ basis.T) @ basis).square().sum(dim=1).mean())


def _unit(matrix: Tensor) -> Tensor:
    return matrix / torch.linalg.matrix_norm(matrix)
