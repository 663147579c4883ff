"""Detectors over several benchmarks: Friedman's test, Conover's post-hoc test and cliques (Demsar 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, t

from nci_plugin.comparison.multiple import holm

LEAST_BENCHMARKS = 5
"""Fewer cannot tell detectors apart by ranks, whatever their numbers."""

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Ranking:
    """``mean_ranks`` (D,), 1 the best; Friedman's ``statistic`` and ``p``; Conover-Holm p of ``pairs`` (D, D)."""

    mean_ranks: NDArray[np.float64]
    statistic: float
    p: float
    pairs: NDArray[np.float64]


def friedman(values: NDArray[np.float64], higher_is_better: bool) -> Ranking:
    """Rank detectors by values (benchmarks, D); ties share their mean rank. Needs 5 benchmarks and 3 detectors.

    The post-hoc test is Fisher's least significant difference on the ranks (Conover 1999, section 5.8): t of two mean
    ranks with the residual variance of ranks by benchmarks and detectors. It is read only if Friedman's p is below
    0.05: else every adjusted p value is 1.
    """
    blocks, detectors = values.shape
    ranks = rankdata(-values if higher_is_better else values, axis=1)
    means = ranks.mean(axis=0)
    spread = np.sum((ranks - (detectors + 1) / 2) ** 2)  # 0 if all detectors are equal everywhere
    statistic, p = map(float, friedmanchisquare(*ranks.T)) if spread > 0 else (0.0, 1.0)
    pairs = np.ones((detectors, detectors))
    if p < SIGNIFICANT:
        degrees = (blocks - 1) * (detectors - 1)
        residual = max(0.0, float(np.sum(ranks**2) - blocks * np.sum(means**2))) / degrees
        first, second = np.triu_indices(detectors, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            distances = np.abs(means[first] - means[second]) / np.sqrt(2 * residual / blocks)
        # Equal mean ranks without any residual are 0/0: not told apart.
        adjusted = holm(np.where(np.isnan(distances), 1.0, 2 * t.sf(distances, degrees)))
        pairs[first, second] = pairs[second, first] = adjusted
    return Ranking(means, statistic, p, pairs)


def cliques(order: list[int], apart: NDArray[np.bool_]) -> list[list[int]]:
    """The longest runs of neighbours in ``order`` of whom no two are ``apart`` (D, D); they may overlap.

    A detector that is apart from both neighbours is a run of its own.
    """
    runs: list[list[int]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and not any(apart[order[end], each] for each in order[start:end]):
            end += 1
        if not runs or order[end - 1] not in runs[-1]:
            runs.append(order[start:end])
    return runs
