"""P values of a family of comparisons, adjusted so that one false finding in the family is rare, and what then ties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT = 0.05

Values = NDArray[np.float64]


def holm(p_values: Values) -> Values:
    """Holm's step-down p values (Holm 1979) of a family (J,); one that is NaN could not be computed and counts as 1."""
    known = np.where(np.isnan(p_values), 1.0, p_values)
    order = np.argsort(known, kind="stable")
    stepped = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(stepped, 1.0)
    return np.where(np.isnan(p_values), np.nan, adjusted)


def step_down_max_t(statistics: Values, replicates: Values) -> Values:
    """Step-down max-T p values (Westfall & Young 1993) of |t| (J,), from |t| under no difference (B, J).

    The replicates of all comparisons are of the same draws, so their dependence is used. A comparison whose statistic
    is NaN could not be computed and counts as 0. The smallest possible value is 1 / (B + 1).
    """
    known = np.nan_to_num(statistics, nan=0.0)
    order = np.argsort(-known, kind="stable")
    largest = np.zeros(len(replicates))
    stepped = np.empty(len(known))
    for place in range(len(order) - 1, -1, -1):
        np.fmax(largest, replicates[:, order[place]], out=largest)
        stepped[place] = (1 + np.sum(largest >= known[order[place]])) / (len(replicates) + 1)
    adjusted = np.empty(len(known))
    adjusted[order] = np.maximum.accumulate(stepped)
    return np.where(np.isnan(statistics), np.nan, adjusted)


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
