"""Variance of AUROCs on the same samples (DeLong et al. 1988), from midranks in O(n log n) (Sun & Xu 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from nci_plugin.metrics.counts import Floats

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """What each sample contributes to the AUROCs of D detectors, shares in 0..1.

    ``id`` (D, n_id) is the share of OOD samples below an ID sample, ``ood`` (D, n_ood) that of ID samples above an OOD
    sample, a tie counting half. The mean of either is the AUROC.
    """

    id: Matrix
    ood: Matrix

    @property
    def aurocs(self) -> Matrix:
        return self.id.mean(axis=1)


def components(id_scores: Floats, ood_scores: Floats) -> Components:
    """Of scores (D, n_id) and (D, n_ood), larger = ID."""
    n_id, n_ood = id_scores.shape[1], ood_scores.shape[1]
    together = ranks(np.concatenate([id_scores, ood_scores], axis=1))
    among_id, among_ood = ranks(id_scores), ranks(ood_scores)
    return Components((together[:, :n_id] - among_id) / n_ood, 1 - (together[:, n_id:] - among_ood) / n_id)


def ranks(rows: Floats) -> Matrix:
    """Ranks from 1 within each row (D, n), equal values sharing their mean, as scipy.stats.rankdata (0.6 s)."""
    found = np.empty(rows.shape)
    for place, row in enumerate(rows):
        ordered = np.sort(row)
        found[place] = (np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right") + 1) / 2
    return found


def mean_of(parts: Sequence[Components]) -> Components:
    """Components of the mean AUROC of several networks on the same samples."""
    return Components(np.mean([part.id for part in parts], axis=0), np.mean([part.ood for part in parts], axis=0))


def covariance(parts: Sequence[Components], strata: Sequence[int]) -> Matrix:
    """Covariance (D, D) of the mean AUROC over data sets; one data set and one stratum give DeLong's.

    ``parts`` are the components of each OOD set against the same ID samples; those consist of ``strata`` of so many
    samples, one after the other, drawn apart from one another.
    """
    over_sets = np.mean([part.id for part in parts], axis=0)
    total = over_sets.shape[1]
    result = np.zeros((len(over_sets), len(over_sets)))
    for stratum in np.split(over_sets, np.cumsum(strata)[:-1], axis=1):
        result += _covariance_of_mean(stratum) * (stratum.shape[1] / total) ** 2
    for part in parts:
        result += _covariance_of_mean(part.ood) / len(parts) ** 2
    return result


def interval(aurocs: Matrix, half_widths: Matrix) -> tuple[Matrix, Matrix]:
    """Bounds of AUROCs, shares in 0..1, from the half widths of their intervals, by their logits (Pepe 2003).

    Near 1 an AUROC's error is skewed, and symmetric intervals hold the truth too seldom. Those of 0 and 1 have no
    width: scores that lie apart everywhere say nothing of how sure that is.
    """
    extreme = np.minimum(aurocs, 1 - aurocs) < 1e-12
    inside = np.where(extreme, 0.5, aurocs)
    centre, half = logit(inside), half_widths / (inside * (1 - inside))
    low, high = (np.where(extreme, aurocs, expit(centre + sign * half)) for sign in (-1, 1))
    return low, high


def _covariance_of_mean(values: Matrix) -> Matrix:
    return np.atleast_2d(np.cov(values)) / values.shape[1]
