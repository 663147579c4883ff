"""P values of a family of comparisons, adjusted so that one false finding in the whole family is rare."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
