"""Detectors over several benchmarks (Demsar 2006; arXiv 2511.11934): Friedman, Conover's post-hoc test, cliques."""

from __future__ import annotations

from collections.abc import Sequence
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


def cliques(order: Sequence[int], apart: NDArray[np.bool_]) -> list[list[int]]:
    """Groups that cover every pair of ``order`` that is not ``apart`` (D, D), and no pair that is.

    So two share a group exactly if they cannot be told apart. A group takes all that fit, in order; where all within
    a distance of one another tie, as with ranks, the groups are runs of neighbours.
    """
    tied = ~apart
    open_pairs = {(one, two) for place, one in enumerate(order) for two in order[place + 1 :] if tied[one, two]}
    groups = []
    for place, one in enumerate(order):
        later = order[place + 1 :]
        while left := [two for two in later if (one, two) in open_pairs]:
            members = {one, left[-1]}
            for each in order:
                if all(tied[each, member] for member in members if member != each):
                    members.add(each)
            groups.append([each for each in order if each in members])
            open_pairs -= {(a, b) for a in members for b in members}
        if not any(one in group for group in groups):
            groups.append([one])
    return groups
